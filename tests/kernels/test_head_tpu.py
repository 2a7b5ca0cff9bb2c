"""The TPU kernel of the diffusion head, interpreted: float64 arithmetic, residency, races, unwritten memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice, AbstractMesh

from kernels.head import arguments, pallas_tpu
from kernels.head.arguments import Block, Params
from kernels.head.tiles import Tiles, choose, options
from tests.kernels import heads

SIZE = heads.Size(width=128, mlp=384, latent=16, depth=2)
CUTS = [Tiles(3, 128, 0), Tiles(1, 128, 256), Tiles(3, 0, 128)]  # none resident, some, all


@functools.partial(jax.jit, static_argnames=('tiles', 'interpret'))
def call(weights, noise, condition, steps, guidance, *, tiles=CUTS[1], interpret=True):
  options = {'eps': heads.EPS, 'tiles': tiles, 'interpret': interpret}
  return pallas_tpu.run(weights, noise, condition, steps, guidance, **options)


def assert_close(got, want, tolerance):
  assert np.isfinite(want).all()
  np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=0, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize('count,rows,guided', [(1, 1, True), (2, 3, False), (5, 8, True), (10, 1, True)])
def test_equals_float64(count, rows, guided):
  weights, steps = heads.weights(SIZE), heads.steps(SIZE, count)
  noise, condition, guidance = heads.inputs(SIZE, rows)
  guidance = guidance if guided else None
  got = call(weights, noise, condition, steps, guidance)
  assert_close(got, heads.expected(weights, noise, condition, steps, guidance), 1e-5)


def test_bfloat16():
  weights, steps = heads.weights(SIZE, dtype=jnp.bfloat16), heads.steps(SIZE, 5, dtype=jnp.bfloat16)
  noise, condition, guidance = heads.inputs(SIZE, 2, dtype=jnp.bfloat16)
  got = call(weights, noise, condition, steps, guidance)
  assert got.dtype == jnp.bfloat16
  assert_close(got, heads.expected(weights, noise, condition, steps, guidance), 2e-2)


@pytest.mark.parametrize(('dtype', 'tolerance'), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
@pytest.mark.parametrize('tiles', CUTS)
def test_feed_forward_in_int8(dtype, tolerance, tiles):
  weights, steps = arguments.quantised(heads.weights(SIZE, dtype=dtype)), heads.steps(SIZE, 3, dtype=dtype)
  noise, condition, guidance = heads.inputs(SIZE, 2, dtype=dtype)
  got = call(weights, noise, condition, steps, guidance, tiles=tiles)
  assert_close(got, heads.expected(weights, noise, condition, steps, guidance), tolerance)


def test_residency_changes_nothing():
  weights, steps = heads.weights(SIZE), heads.steps(SIZE, 3)
  noise, condition, guidance = heads.inputs(SIZE, 2)
  none, some, every = (call(weights, noise, condition, steps, guidance, tiles=tiles) for tiles in CUTS)
  np.testing.assert_array_equal(every, none)  # same tiles, in the same order
  np.testing.assert_allclose(some, none, atol=1e-5)


def test_a_row_of_nan_stays_alone():
  weights, steps = heads.weights(SIZE), heads.steps(SIZE, 2)
  noise, condition, guidance = heads.inputs(SIZE, 3)
  want = call(weights, noise, condition, steps, guidance)
  got = call(weights, noise, condition.at[1].set(jnp.nan), steps, guidance)
  assert np.isnan(got[1]).all()
  np.testing.assert_array_equal(got[::2], want[::2])


@pytest.mark.slow
@pytest.mark.parametrize('held', [lambda weights: weights, arguments.quantised], ids=['float32', 'int8'])
def test_no_races_and_no_unwritten_memory(held):
  weights, steps = held(heads.weights(SIZE)), heads.steps(SIZE, 2)
  noise, condition, guidance = heads.inputs(SIZE, 1)
  checks = pltpu.InterpretParams(detect_races=True, uninitialized_memory='nan', dma_execution_mode='on_wait')
  got = call(weights, noise, condition, steps, guidance, interpret=checks)
  assert_close(got, heads.expected(weights, noise, condition, steps, guidance), 1e-5)
  assert not _races_found()


def _races_found() -> bool:
  from jax._src.pallas.mosaic.interpret import interpret_pallas_call

  return interpret_pallas_call.races.races_found


@pytest.mark.parametrize('depth,width,mlp', [(4, 1536, 4608), (4, 3584, 10752), (4, 896, 2688)])
@pytest.mark.parametrize('vmem', [63 * 2**20, 128 * 2**20])
def test_chosen_tiles_cover_the_columns_and_fit(depth, width, mlp, vmem):
  tiles = choose(depth, width, mlp, 2, vmem)
  assert tiles.count * (tiles.streamed + tiles.resident) == mlp
  assert tiles.bytes(depth, width, 2) < vmem
  everything = 3 * 2 * depth * width * mlp
  nothing_resident = tiles.traffic(depth, width, 2, 10) == 10 * everything
  assert nothing_resident == (tiles.resident == 0)
  if mlp == 4608 and vmem == 128 * 2**20:
    # Published order also reads the AdaLN weights of 14 D² at every step.
    published = 10 * (everything + 2 * 14 * width**2)
    assert tiles.traffic(depth, width, 2, 10) + 2 * 15 * width**2 <= 0.45 * published


def test_every_cut_covers_the_columns():
  for mlp in (96, 384, 4608):
    for tiles in options(mlp):
      assert tiles.count * (tiles.streamed + tiles.resident) == mlp
  assert choose(4, 1536, 4608, 2, 8 * 2**20) is None


def test_refusals_say_why():
  weights, steps = heads.weights(SIZE), heads.steps(SIZE, 2)
  noise, condition, guidance = heads.inputs(SIZE, 2)
  refuse = functools.partial(pallas_tpu.refuse, eps=heads.EPS)
  assert refuse(weights, noise, condition, steps, guidance) is None
  as_tuple = weights.replace(blocks=(weights.blocks,))
  assert 'stacked' in refuse(as_tuple, noise, condition, steps, guidance)
  half = heads.weights(SIZE, dtype=jnp.float16)
  assert 'float16' in refuse(half, noise, condition, steps, guidance)
  small = arguments.quantised(weights)
  assert refuse(small, noise, condition, steps, guidance) is None
  mixed = small.replace(blocks=small.blocks.replace(up=weights.blocks.up))
  assert 'all as int8 or none' in refuse(mixed, noise, condition, steps, guidance)
  odd = arguments.quantised(heads.weights(heads.Size(width=96, mlp=192, latent=16)))
  assert 'every 128 outputs' in refuse(odd, noise, condition, steps, guidance)
  many = jnp.zeros((200, SIZE.latent))
  assert '400' in refuse(weights, many, condition, steps, guidance)


def abstract(width: int) -> Params:
  """The feed-forward of a published head, bfloat16, without memory."""
  opened, closed = (jax.ShapeDtypeStruct((4, *dims), jnp.bfloat16) for dims in ((width, 3 * width), (3 * width, width)))
  block = Block(norm=None, modulation=None, gate=opened, up=opened, down=closed)
  return Params(noise=None, condition=None, time_in=None, time_out=None, blocks=block, modulation=None, out=None)


def test_a_kernel_without_resident_weights_is_not_the_default():
  assert 'no weight stays' in pallas_tpu.decline(abstract(3584), eps=heads.EPS)
  assert pallas_tpu.decline(abstract(1536), eps=heads.EPS) is None


@pytest.mark.parametrize('kind', ['TPU v5 lite', 'TPU v6 lite'])
def test_in_int8_a_head_of_1536_stays_in_vmem(kind):
  small = jax.eval_shape(arguments.quantised, abstract(1536))
  device = AbstractDevice(kind, 1, 'tpu')
  with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
    tiles = pallas_tpu.choose_tiles(small)
  assert (tiles.streamed, tiles.count * tiles.resident) == (0, 4608)
