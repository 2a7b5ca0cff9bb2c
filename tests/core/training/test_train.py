"""The optimiser, the split into trainable and frozen, and the step's exact arithmetic."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from hypothesis import given, settings
from hypothesis import strategies as st

from core.params import Spec
from core.training import lora, optim, steps


@struct.dataclass
class Block:
  w: Any  # [L, D, D]
  norm: Any  # [L, D]


@struct.dataclass
class Toy:
  embed: Any  # [V, D]
  blocks: Block
  head: Any  # [D]


def toy(seed=0, layers=3, width=4):
  k = jax.random.split(jax.random.key(seed), 3)
  return Toy(
    jax.random.normal(k[0], (5, width)),
    Block(jax.random.normal(k[1], (layers, width, width)) / 2, jnp.ones((layers, width))),
    jax.random.normal(k[2], (width,)),
  )


SPEC = Toy(
  Spec((5, 4), ('vocab', None), inputs=0),
  Block(Spec((3, 4, 4), ('layers', None, None)), Spec((3, 4), ('layers', None))),
  Spec((4,), (None,)),
)


def batch(seed=0, rows=12):
  r = np.random.default_rng(seed)
  return {
    'x': r.integers(0, 5, rows),
    'y': r.normal(size=rows).astype(np.float32),
    'w': r.integers(0, 3, rows).astype(np.float32),
  }


def loss_fn(params, batch, key):
  def layer(h, block):
    return jnp.tanh(h @ block.w) * block.norm, None

  h, _ = jax.lax.scan(layer, params.embed[batch['x']], params.blocks)
  error = jnp.square(h @ params.head - batch['y'])
  weight = batch['w'].sum()
  metrics = {'error': (error.sum(), jnp.float32(error.size))}
  return steps.Loss((error * batch['w']).sum(), weight, metrics, maxima={'worst': -error.min()})


def run(config, updates=3, params=None, rows=12, accumulate=1, **data):
  tx = optim.optimizer(config, 10, SPEC)
  step = steps.make_step(loss_fn, tx, accumulate=accumulate)
  state, history = steps.init_state(params or toy(), tx), []
  for i in range(updates):
    state, metrics = step(state, None, batch(i, rows) | data, jax.random.key(i))
    history.append(jax.device_get(metrics))
  return state, history


def close(a, b, tol):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tol, atol=tol), a, b)


@pytest.mark.parametrize('parts', [3, 12])
def test_accumulation_equals_one_big_batch(parts):
  # The weights differ from row to row: a mean of micro-batch means would be another number.
  config = optim.Optim(lr=1e-2, clip_norm=None)
  one, want = run(config)
  many, got = run(config, accumulate=parts)
  close(want, got, 1e-6)
  close(one.params, many.params, 1e-6)


def test_step_minimises_the_exact_mean_like_plain_optax():
  mask = Toy(True, Block(True, False), False)
  tx = optax.adamw(optax.cosine_decay_schedule(1e-2, 10), weight_decay=0.1, mask=mask)

  @jax.jit
  def plain(params, opt, batch):
    mean = lambda params: loss_fn(params, batch, None).total / batch['w'].sum()
    updates, opt = tx.update(jax.grad(mean)(params), opt, params)
    return optax.apply_updates(params, updates), opt

  params = toy()
  opt = tx.init(params)
  for i in range(3):
    params, opt = plain(params, opt, batch(i))
  state, _ = run(optim.Optim(lr=1e-2, weight_decay=0.1, clip_norm=None))
  close(state.params, params, 1e-6)


def test_schedules_match_transformers():
  torch = pytest.importorskip('torch')
  import transformers

  ours = {
    'cosine': optim.Optim(lr=0.5, warmup_steps=4),
    'linear': optim.Optim(lr=0.5, warmup_steps=4, schedule='linear'),
  }
  for name, config in ours.items():
    make = getattr(transformers, f'get_{name}_schedule_with_warmup')
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs, rates = make(opt, 4, 20), []
    for _ in range(20):
      rates.append(theirs.get_last_lr()[0])
      opt.step()
      theirs.step()
    np.testing.assert_allclose([optim.schedule(config, 20)(i) for i in range(20)], rates, atol=1e-6)


def test_decay_spares_stacked_vectors_and_biases():
  assert optim.decayed(toy(), SPEC) == Toy(True, Block(True, False), False)
  bias = {'q_bias': Spec((2, 3, 4), ('layers', 'heads', None))}  # [heads, head_dim]: no matrix all the same
  assert optim.decayed({'q_bias': jnp.zeros((2, 3, 4))}, bias) == {'q_bias': False}
  table = {'positions': Spec((4, 6), (None, None), inputs=0, constant=True)}
  assert optim.decayed({'positions': jnp.zeros((4, 6))}, table) == {'positions': False}


def test_every_weight_of_a_real_decoder_has_a_role():
  from core import decoder

  config = next(iter(decoder.CONFIGS.values()))
  spec = decoder.spec(config)
  shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.float32), spec)
  views = optim.matrices(shapes, spec)
  assert views.embed is None and views.norm is None
  assert views.blocks.attn.q.reduction_axis == (1,) and views.blocks.attn.q.output_axis == (2, 3)
  assert views.blocks.attn.o.reduction_axis == (1, 2) and views.blocks.attn.o.output_axis == (3,)


def test_lora_factors_are_matrices_of_their_base():
  adapted = lora.adapt(jax.random.key(0), toy(), SPEC, r'blocks\.w', rank=2)
  trainable, _ = steps.partition(adapted, r'.*\.[ab]')
  views = optim.matrices(trainable, SPEC)
  assert views.blocks.w.a == views.blocks.w.b and views.blocks.w.a.reduction_axis == (1,)
  assert jax.tree.leaves(optim.decayed(trainable, SPEC)) == [True, True]
  with pytest.raises(ValueError, match='extra has no Spec; the model describes embed'):
    optim.decayed({'extra': jnp.zeros(3)}, SPEC)


@pytest.mark.parametrize('name', ['adamw', 'adafactor', 'muon'])
def test_each_rule_learns(name):
  rate = {'adamw': 3e-2, 'adafactor': 3e-2, 'muon': 3e-2}[name]
  _, history = run(
    optim.Optim(name=name, lr=rate, schedule='constant', weight_decay=1e-4),
    updates=60,
    x=batch()['x'],
    y=batch()['y'],
    w=np.ones(12, np.float32),
  )
  assert history[-1]['loss'] < 0.5 * history[0]['loss']
  assert history[-1]['lr'] == np.float32(rate)


def test_muon_orthogonalises_each_layer_of_a_stack():
  # Five Newton-Schulz steps bring every singular value of an update near 1 (times rate and scale).
  params = toy(layers=3, width=8)
  tx = optim.optimizer(optim.Optim(name='muon', lr=1.0, clip_norm=None, schedule='constant'), 10, SPEC)
  grads = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape), params)
  updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
  values = np.linalg.svd(np.asarray(updates.blocks.w), compute_uv=False) / (0.2 * 8**0.5)
  assert values.shape == (3, 8) and (values > 0.5).all() and (values < 1.3).all()


@pytest.mark.parametrize(
  'change, says',
  [
    ({'lr': -1.0}, r'lr=-1.0: expected a positive'),
    ({'lr': float('nan')}, 'lr=nan'),
    ({'name': 'sgd'}, "name='sgd': expected one of adamw, adafactor, muon"),
    ({'b2': 1.0}, 'b2=1.0'),
    ({'schedule': 'step'}, 'schedule='),
    ({'clip_norm': 0.0}, 'clip_norm=0.0'),
    ({'name': 'adafactor', 'b2': 0.9}, 'adafactor has no such moment'),
    ({'warmup_steps': -1}, 'warmup_steps=-1'),
  ],
)
def test_impossible_values_are_named(change, says):
  with pytest.raises(ValueError, match=says):
    optim.Optim(**change)


@pytest.mark.parametrize('steps, rates', [(1, [3.0]), (3, [0.0, 1.5, 3.0])])
def test_a_run_shorter_than_its_warm_up_warms_up_until_its_last_update(steps, rates):
  rate = optim.schedule(optim.Optim(lr=3.0, schedule='constant', warmup_steps=10), steps)
  np.testing.assert_allclose([rate(i) for i in range(steps)], rates)


def test_partition_gives_frozen_weights_no_state_and_no_change():
  params = toy()
  trainable, frozen = steps.partition(params, r'blocks\..*')
  close(steps.merge(trainable, frozen), params, 0)
  tx = optim.optimizer(optim.Optim(lr=1e-2), 10, SPEC)
  state = steps.init_state(trainable, tx)
  moments = [x.shape for x in jax.tree.leaves(state.opt_state) if x.ndim]
  assert sorted(moments) == sorted([(3, 4, 4), (3, 4)] * 2)
  before = jax.device_get(frozen)
  state, _ = steps.make_step(loss_fn, tx)(state, frozen, batch(), jax.random.key(0))
  close(before, frozen, 0)
  assert state.params.embed is None and state.params.head is None
  with pytest.raises(ValueError, match=r"trainable='nothing' matches none of the 4 weights, such as embed"):
    steps.partition(params, 'nothing')
  with pytest.raises(ValueError, match='head is in the trainable and in the frozen'):
    steps.merge(params, Toy(None, Block(None, None), params.head))


@pytest.mark.parametrize(
  'change, loss', [({'w': np.zeros(12, np.float32)}, 0.0), ({'y': np.full(12, np.nan, np.float32)}, np.nan)]
)
def test_an_empty_or_broken_batch_changes_nothing(change, loss):
  config = optim.Optim(lr=1e-2, weight_decay=0.1)
  tx = optim.optimizer(config, 10, SPEC)
  state = steps.init_state(toy(), tx)
  before = jax.device_get((state.params, state.opt_state))
  after, metrics = steps.make_step(loss_fn, tx)(state, None, batch() | change, jax.random.key(0))
  close(before, jax.device_get((after.params, after.opt_state)), 0)
  assert metrics['skipped'] == 1 and after.step == 1
  np.testing.assert_equal(float(metrics['loss']), loss)


def test_low_precision_weights_keep_float32_moments():
  low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), toy())
  state, _ = run(optim.Optim(lr=1e-2), params=low, accumulate=2)
  assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(state.params))
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.opt_state) if x.ndim)


def test_the_state_is_donated():
  tx = optim.optimizer(optim.Optim(), 10, SPEC)
  state = steps.init_state(toy(), tx)
  steps.make_step(loss_fn, tx)(state, None, batch(), jax.random.key(0))
  assert state.params.embed.is_deleted()


def test_an_uneven_split_is_named():
  with pytest.raises(ValueError, match='batch leaf w has 12 rows: expected a multiple of accumulate=5'):
    run(optim.Optim(), accumulate=5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4))
def test_a_split_holds_every_row_once(parts, rows):
  x = np.arange(parts * rows)
  assert sorted(steps._split({'x': x}, parts)['x'].ravel()) == list(x)


def remembering(params, batch, key, seen):
  """`loss_fn` times how many evaluations there have been, which it counts."""
  loss = loss_fn(params, batch, key)
  return loss.replace(total=loss.total * (seen + 1), carry=seen + 1)


@pytest.mark.parametrize('accumulate', [1, 2, 4])
def test_a_carry_goes_from_one_evaluation_to_the_next(accumulate):
  tx = optim.optimizer(optim.Optim(schedule='constant'), 10, SPEC)
  step = steps.make_step(remembering, tx, accumulate=accumulate)
  state = steps.init_state(toy(), tx, carry=0)
  data = batch()
  parts = [{k: v[i::accumulate] for k, v in data.items()} for i in range(accumulate)]
  for update in range(2):
    want = sum((accumulate * update + 1 + i) * loss_fn(state.params, p, None).total for i, p in enumerate(parts))
    state, metrics = step(state, None, data, jax.random.key(0))
    assert float(metrics['loss'] * metrics['weight']) == pytest.approx(float(want), rel=1e-5)
  assert int(state.carry) == 2 * accumulate


def test_a_skipped_step_leaves_the_carry():
  tx = optim.optimizer(optim.Optim(), 10, SPEC)
  empty = batch() | {'w': np.zeros(12, np.float32)}
  state, _ = steps.make_step(remembering, tx)(steps.init_state(toy(), tx, carry=7), None, empty, jax.random.key(0))
  assert int(state.carry) == 7


def compared(params, batch, key, *, reference):
  """The squared distance of embeddings from those of a reference, which no micro-batch may see a part of."""
  assert reference.embed.shape == (5, 4)
  error = jnp.square(params.embed - reference.embed)[batch['x']].sum(-1)
  return steps.Loss((error * batch['w']).sum(), batch['w'].sum())


@pytest.mark.parametrize('accumulate', [1, 4])
def test_a_reference_is_not_differentiated_donated_or_split(accumulate):
  tx = optim.optimizer(optim.Optim(schedule='constant', clip_norm=None), 10, SPEC)
  step = steps.make_step(compared, tx, accumulate=accumulate)
  reference = toy(seed=1)
  before = jax.tree.map(np.array, reference)
  state, data = steps.init_state(toy(), tx), batch()
  distance = np.square(state.params.embed - reference.embed)[data['x']].sum(-1)
  want = np.average(distance, weights=data['w'])
  for update in range(2):
    state, metrics = step(state, None, data, jax.random.key(0), reference)
    if update == 0:
      assert float(metrics['loss']) == pytest.approx(want, rel=1e-6)
  jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, reference), before)
  assert not any(x.is_deleted() for x in jax.tree.leaves(reference))
  assert jax.tree.structure(state.params) == jax.tree.structure(reference)
