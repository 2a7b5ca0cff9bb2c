"""The transformers: sizes as published, symmetries, hostile shapes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.params import count, path_name
from core.tap import Keep
from core.training import optim
from rl.flow import mmdit
from rl.flow.files import transformer
from tests.rl.flow import tiny

FAMILIES = ('tiny', 'tiny-flux')


@functools.cache
def model(name):
  return tiny.transformer(name)


@functools.cache
def _jitted(name):
  config, _ = model(name)
  return jax.jit(lambda params, arrays: mmdit.apply(params, config, **arrays).velocity)


def velocity(name, arrays, params=None):
  return _jitted(name)(model(name)[1] if params is None else params, arrays)


@pytest.mark.parametrize(
  ('name', 'parameters', 'tensors'),
  [('flux.1-dev', 11_901_408_320, 1160), ('sd3-medium', 2_028_328_000, None), ('sd3.5-medium', 2_243_171_520, None)],
)
def test_published_sizes(name, parameters, tensors):
  config = mmdit.CONFIGS[name]
  spec = mmdit.spec(config)
  # The published count leaves out the table of positions, which is no parameter there.
  assert count(spec.replace(positions=None)) == parameters
  stored = [n for _, source, s in transformer.leaves(config) for _, n in source.names(s.shape)]
  assert len(stored) == len(set(stored))
  assert tensors in (None, len(stored))
  assert transformer.config_from(transformer.config_to(config)) == config


def test_schnell_has_no_guidance_input():
  dev, schnell = (mmdit.spec(mmdit.CONFIGS[f'flux.1-{name}']) for name in ('dev', 'schnell'))
  assert count(dev) - count(schnell) == count(dev.guidance)


@pytest.mark.slow
def test_initial_velocity_is_zero():
  config, _ = model('tiny-flux')
  start = mmdit.init(jax.random.key(0), config)
  assert not velocity('tiny-flux', tiny.inputs(config), params=start).any()


@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_every_weight_can_be_trained(name):
  config, params = model(name)
  arrays = tiny.inputs(config)
  gradient = jax.jit(jax.grad(lambda p: (mmdit.apply(p, config, **arrays).velocity ** 2).mean()))(params)
  gradient = gradient.replace(positions=None)  # a constant
  norms = {path_name(path): np.abs(g).max() for path, g in jax.tree.leaves_with_path(gradient)}
  dead = {weight for weight, norm in norms.items() if norm == 0}
  # Nothing reads what the last block's text asks for.
  assert dead <= {f'last.text.attn.{weight}' for weight in ('q.weight', 'q.bias', 'q_norm')}


@pytest.mark.parametrize('name', FAMILIES)
def test_rows_are_independent_and_the_order_of_text_does_not_matter(name):
  config, _ = model(name)
  arrays = tiny.inputs(config)
  whole = velocity(name, arrays)
  swapped = velocity(name, {key: value[::-1] for key, value in arrays.items()})
  np.testing.assert_allclose(swapped, whole[::-1], rtol=1e-4, atol=1e-5)
  reordered = velocity(name, arrays | {'context': arrays['context'][:, ::-1]})
  np.testing.assert_allclose(reordered, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', FAMILIES)
def test_every_input_matters(name):
  config, _ = model(name)
  arrays = tiny.inputs(config)
  whole = velocity(name, arrays)
  for key, value in arrays.items():
    assert np.abs(velocity(name, arrays | {key: 0.9 * value}) - whole).max() > 1e-3, key
  mirrored = velocity(name, arrays | {'latents': arrays['latents'][:, :, ::-1]})
  assert np.abs(mirrored[:, :, ::-1] - whole).max() > 1e-3


def test_table_is_cropped_around_its_centre():
  table = jnp.arange(5 * 5).reshape(5, 5, 1)
  got = mmdit.positions.crop(table, 2, 3)
  np.testing.assert_array_equal(got[0, :, 0], [6, 7, 8, 11, 12, 13])
  with pytest.raises(ValueError, match='6 x 2 patches'):
    mmdit.positions.crop(table, 6, 2)


def test_rotary_tables_in_float64():
  cos, sin = mmdit.positions.rope(2, 2, 3, (4, 6, 6), 10_000.0)
  assert cos.shape == (2 + 6, 1, 8)
  np.testing.assert_array_equal(cos[:2], 1)
  angles = np.concatenate([np.zeros(2), 1 * 10_000.0 ** (-np.arange(3) / 3), 2 * 10_000.0 ** (-np.arange(3) / 3)])
  np.testing.assert_allclose(cos[2 + 5, 0], np.cos(angles), atol=1e-7)
  np.testing.assert_allclose(sin[2 + 5, 0], np.sin(angles), atol=1e-7)


@pytest.mark.parametrize('name', FAMILIES)
def test_kept_activations_and_edits(name):
  config, params = model(name)
  arrays = tiny.inputs(config)
  stack = 'single' if config.single else 'dual'
  stream = 'single' if config.single else 'dual.image'
  sites = (f'{stack}.pattern', Keep(f'{stream}.resid_out', layers=(0,)))

  def silence(site, layer, x):
    return 0 * x if site == f'{stream}.resid_out' else x

  out = jax.jit(lambda p: mmdit.apply(p, config, **arrays, keep=sites, edit=silence))(params)
  pattern = out.kept[f'{stack}.pattern']
  tokens = 3 + 2 * 3
  assert pattern.shape == (config.single or config.dual, 2, config.heads, tokens, tokens)
  np.testing.assert_allclose(pattern.sum(-1), 1, rtol=1e-5)
  kept = out.kept[f'{stream}.resid_out']
  assert kept.shape[0] == 1 and not kept.any()
  assert np.abs(out.velocity - velocity(name, arrays)).max() > 1e-3
  with pytest.raises(ValueError, match='unknown site'):
    mmdit.apply(params, config, **arrays, keep=('resid_out',))


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('latents', np.zeros((2, 3, 4, 4), np.float32), 'multiples of 2'),
    ('latents', np.zeros((2, 4, 4, 5), np.float32), r'\[batch, rows, columns, 4\]'),
    ('time', np.zeros((), np.float32), r'expected \[2\]'),
    ('context', np.zeros((1, 3, 24), np.float32), r'expected \[2, tokens, 24\]'),
    ('pooled', np.zeros((2, 19), np.float32), r'expected \[2, 20\]'),
    ('guidance', None, 'needs a guidance scale'),
    ('guidance', np.zeros(3, np.float32), r'expected \[2\]'),
  ],
)
def test_wrong_shapes_are_refused(key, value, message):
  config, params = model('tiny-flux')
  arrays = tiny.inputs(config) | {key: value}
  with pytest.raises(ValueError, match=message):
    mmdit.apply(params, config, **arrays)


def test_guidance_of_a_model_without_it_is_refused():
  config, params = model('tiny')
  with pytest.raises(ValueError, match='no guidance input'):
    mmdit.apply(params, config, **tiny.inputs(config), guidance=np.zeros(2, np.float32))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'axes': (4, 6, 6)}, 'exactly one'),
    ({'dual': 3}, 'no dual last'),
    ({'table': None, 'axes': (4, 6, 4)}, 'sum to head_dim=16'),
    ({'table': None, 'axes': (5, 5, 6)}, 'even sizes'),
  ],
)
def test_impossible_configurations_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    tiny.transformer('tiny', **changes)


@pytest.mark.slow
def test_a_table_of_positions_is_a_constant_of_the_optimiser():
  """Published checkpoints store SD3's table, and published trainers leave it as it is."""
  spec = mmdit.spec(mmdit.CONFIGS['tiny'])
  names = [path_name(path) for path, s in jax.tree.leaves_with_path(spec) if s.constant]
  assert names == ['positions']
  tx = optim.optimizer(optim.Optim(lr=1.0, schedule='constant', weight_decay=0.5), 2, spec)
  weights = jax.tree.map(lambda s: jnp.ones(s.shape), spec)
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, weights), tx.init(weights), weights)
  assert not updates.positions.any() and updates.patch.weight.any()
