"""Weights piece by piece: decoding keeps no float32 copy of them, and pieces give the product of the whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import decoder, params
from core.engine import Engine, Request, device
from core.engine import generate as loop
from core.engine.sampling import Sampling
from kernels import pieces

CONFIG = decoder.Config(
  vocab=512,
  width=256,
  depth=2,
  heads=4,
  kv_heads=2,
  head_dim=64,
  mlp_width=768,
  norm_eps=1e-6,
  rope_theta=1e4,
  max_length=64,
)
MATRICES = r'blocks\.(attn\.[qkvo]|mlp\.(gate|up|down))|head'
EQUATIONS = {'btd,dnh->btnh': (96, 4, 32), 'btnh,nhd->btd': (4, 32, 96), 'btd,df->btf': (96, 160)}


def held(kind):
  """(weights of a kind, their bytes in float32)."""
  weights = decoder.init(jax.random.key(0), CONFIG, jnp.bfloat16 if kind == 'bfloat16' else jnp.float32)
  if kind == 'int8':
    weights = params.map_weights(lambda _, w: params.to_int8(w), weights, MATRICES)
  return weights, 4 * params.count(decoder.spec(CONFIG))


def recorded(monkeypatch, module, name):
  """Sizes of the temporaries of each program that `module.name` runs."""
  program, sizes = getattr(module, name), []

  def run(*args, **options):
    sizes.append(program.lower(*args, **options).compile().memory_analysis().temp_size_in_bytes)
    return program(*args, **options)

  monkeypatch.setattr(module, name, run)
  return sizes


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['float32', 'int8', 'bfloat16'])
def test_a_decoding_loop_keeps_no_copy_of_the_weights(kind, monkeypatch):
  monkeypatch.setattr(pieces, 'PIECE', 2**13)  # about the share of these weights that the real size is of a model's
  monkeypatch.setattr(pieces, 'NARROW_PIECE', 2**13)
  weights, size = held(kind)
  simple, segment = recorded(monkeypatch, loop, '_decode'), recorded(monkeypatch, device, 'decode')
  sampling = Sampling.of(1)
  tokens, positions = np.array([[1, 2, 3]], np.int32), np.arange(3)[None]
  ready = loop.for_decoding(weights)
  loop.prompted(ready, CONFIG, tokens, positions, max_new=4, sampling=sampling).advance()
  engine = Engine(ready, CONFIG, slots=2, pages=16, page_size=4, segment=4)
  engine.submit(Request([1, 2, 3], max_new=4))
  engine.step()
  assert simple and segment
  assert max(simple) <= 0.1 * size, f'{max(simple)} of {size} bytes'
  assert max(segment) <= 0.1 * size, f'{max(segment)} of {size} bytes'


@pytest.mark.parametrize('make', [params.to_int8, lambda w: pieces.streamed(w.astype(jnp.bfloat16)), pieces.streamed])
@pytest.mark.parametrize('eqn', EQUATIONS)
def test_pieces_give_the_product_of_the_whole(eqn, make, monkeypatch):
  monkeypatch.setattr(pieces, 'PIECE', 2**12)
  monkeypatch.setattr(pieces, 'NARROW_PIECE', 2**12)
  shape = EQUATIONS[eqn]
  w = make(jax.random.normal(jax.random.key(0), shape))
  x_dims = eqn.split(',')[0]
  inner = shape[: len(x_dims) - 2]
  x = jax.random.normal(jax.random.key(1), (2, 3, *inner))
  assert all(pieces.plan(eqn, x, shape, narrow=narrow).pieces >= 2 for narrow in (True, False))
  want = np.einsum(eqn, np.asarray(x, np.float64), np.asarray(params.dense(w), np.float64))
  got = jax.jit(params.einsum, static_argnums=0)(eqn, x, w)
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_what_is_cut_and_what_is_not():
  few, many = jnp.zeros((1, 1, 96)), jnp.zeros((1, 65, 96))
  assert pieces.plan('btd,df->btf', few, (96, 2**15), narrow=True) == pieces.Plan(1, 6)
  assert pieces.plan('btd,df->btf', few, (96, 2**15), narrow=False) == pieces.Plan(1, 1)  # a vector
  assert pieces.plan('btd,df->btf', jnp.zeros((2, 1, 96)), (96, 2**15), narrow=False) == pieces.Plan(1, 24)
  assert pieces.plan('btd,df->btf', many, (96, 2**15), narrow=True) is None  # the copy pays
  assert pieces.plan('btd,vd->btv', few, (50, 96), narrow=True) is None  # inputs do not lead
  assert pieces.plan('btd,df->btf', jnp.zeros((1, 1, 97)), (97, 8), narrow=True) is None  # nothing divides 97


def test_a_cast_of_all_weights_casts_pieces_too():
  w = jax.random.normal(jax.random.key(0), (96, 2**11))
  x = jax.random.normal(jax.random.key(1), (2, 96), jnp.bfloat16)
  held = params.cast(pieces.streamed(w), jnp.bfloat16)
  want = np.asarray(x, np.float64) @ np.asarray(w.astype(jnp.bfloat16), np.float64)
  assert held.dtype == jnp.bfloat16 and (params.dense(held) == w.astype(jnp.bfloat16)).all()
  got = jax.jit(params.einsum, static_argnums=0)('bd,df->bf', x, held)
  np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=1e-2 * np.abs(want).max())


def test_bits_are_the_same_numbers():
  config = dataclasses.replace(CONFIG, depth=1)
  weights = decoder.init(jax.random.key(0), config, jnp.bfloat16)
  ready = loop.for_decoding(weights)
  assert isinstance(ready.blocks[0].attn.q, pieces.Streamed) and isinstance(ready.head, pieces.Streamed)
  for w, bits in ((weights.blocks.attn.o[0], ready.blocks[0].attn.o), (weights.head, ready.head)):
    assert (params.dense(bits) == w).all()
