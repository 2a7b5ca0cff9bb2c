"""The tools on Whisper: its decoder is swept over one encoding, and its encoder read by the lens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import mesh
from core.encoder import normalise
from core.tap import Keep
from interp import lens, patch
from interp.sites import at, edits, replace, zero
from interp.whisper import decoder, model
from interp.whisper.config import NORM_EPS
from interp.whisper.patching import DecoderLogits, encoder_logits
from tests.interp.whisper import tiny
from tests.interp.whisper.tiny import CONFIG, params

WEIGHTS = params()
MEL = tiny.mel(rows=1)
TOKENS = np.array([[257, 258, 261, 40, 41]], np.int32)
COMPONENTS = ('cross_z', 'v', 'cross_k')


ENCODED = jax.jit(lambda: model.encode(WEIGHTS, CONFIG, MEL)[0])()


def decode(tokens=TOKENS, states=None, **options):
  keys = decoder.cross_keys(WEIGHTS.decoder, ENCODED if states is None else states)
  return decoder.forward(WEIGHTS.decoder, CONFIG, tokens, keys, **options)


def forward(edit):
  return decoder.logits(WEIGHTS.decoder, decode(edit=edit).hidden)[0, -1, 40]


@pytest.mark.slow
def test_a_sweep_of_the_decoder_is_its_loop():
  values = jax.jit(lambda: decode(TOKENS[:, ::-1], keep=COMPONENTS).kept)()
  assert values['v'].shape == (3, 1, 5, 4, 8) and values['cross_k'].shape == (3, 1, 20, 4, 8)
  axes = patch.Axes(components=COMPONENTS, layers=(0, 2), heads=(0, 3), positions=(1, 4))
  grid = patch.sweep(forward, axes, values)
  for name, layer, head, position in (('cross_z', 2, 3, 4), ('v', 0, 0, 1)):
    change = at(replace(values[name][layer]), heads=(head,), positions=(position,))
    alone = jax.jit(functools.partial(forward, edits({(name, layer): change}, sites=decoder.SITES)))()
    index = (COMPONENTS.index(name), axes.layers.index(layer), axes.heads.index(head), axes.positions.index(position))
    np.testing.assert_allclose(grid[index], alone, atol=1e-5)
  np.testing.assert_allclose(grid[2], jax.jit(lambda: forward(None))(), atol=1e-5)  # keys of the same audio


def test_a_resumed_sweep_is_the_whole_one_and_compiles_once():
  run = jax.jit(lambda tokens: decode(tokens, keep=('resid_in', 'cross_z')).kept)
  here, there = run(TOKENS), run(TOKENS[:, ::-1])
  keys = decoder.cross_keys(WEIGHTS.decoder, ENCODED)
  answers = jnp.asarray([40, 7])
  compiled = []
  for layers, heads in (((0, 1, 2), (0, 3)), ((2,), (1, 2))):
    axes = patch.Axes(components=('cross_z',), layers=layers, heads=heads)
    inputs = (WEIGHTS.decoder, keys, here['resid_in'], answers)
    before = patch._block._cache_size()
    grid = patch.sweep(DecoderLogits(CONFIG), axes, there, *inputs, block=2, resume=True)
    compiled.append(patch._block._cache_size() - before)
    assert grid.shape == (*axes.shape, 1, 2)
    np.testing.assert_allclose(grid[0, :, :, 0, 0, 0], patch.sweep(forward, axes, there)[0, :, :, 0], atol=1e-5)
  assert compiled == [1, 0]


@pytest.mark.parametrize(
  'components, heads, positions',
  [
    (
      ('encoder.attn_out', 'encoder.mlp_out'),
      (),
      (2, 9),
    ),  # one position of a branch: that row alone, then later layers
    (('encoder.mlp_out',), (), ()),
    (('encoder.z',), (1,), (9,)),
  ],
)
def test_a_resumed_sweep_of_the_encoder_is_the_whole_one(components, heads, positions):
  other = jax.jit(lambda mel: model.encode(WEIGHTS, CONFIG, mel, keep=components)[1])(MEL[:, ::-1])
  axes = patch.Axes(components, layers=(0, 1), heads=heads, positions=positions)
  one = mesh.make(data=1, devices=jax.devices()[:1])

  def whole(edit):
    encoded, _ = model.encode(WEIGHTS, CONFIG, MEL, edit=edit)
    return decoder.logits(WEIGHTS.decoder, decode(states=encoded).hidden)[:, -1, 40]

  for values in (other, None):
    grid = encoder_logits(WEIGHTS, CONFIG, MEL, TOKENS, jnp.asarray([40]), axes, values, alpha=0.7, mesh=one)
    wanted = patch.sweep(whole, axes, values or patch.zeros(other), alpha=0.7)
    np.testing.assert_allclose(grid[..., 0], wanted, atol=1e-5)
    assert np.ptp(grid) > 1e-4


def test_positions_outside_the_window_are_refused():
  axes = patch.Axes(('encoder.mlp_out',), layers=(0,), positions=(20,))
  with pytest.raises(ValueError, match='0 to 19'):
    encoder_logits(WEIGHTS, CONFIG, MEL, TOKENS, jnp.asarray([40]), axes)


def test_layers_are_chosen_in_each_stack():
  keep = (Keep('cross_pattern', layers=(2,), positions=(4,)), Keep('encoder.z', layers=(1,)))
  run = jax.jit(lambda keep: model.apply(WEIGHTS, CONFIG, MEL, TOKENS, keep=keep).kept, static_argnums=0)
  some, every = run(keep), run(('cross_pattern', 'encoder.z'))
  np.testing.assert_allclose(some['cross_pattern'], every['cross_pattern'][2:, :, :, 4:], atol=1e-6)
  np.testing.assert_allclose(some['encoder.z'], every['encoder.z'][1:], atol=1e-5)
  with pytest.raises(ValueError, match=r'encoder\.z.*0\.\.1'):
    model.encode(WEIGHTS, CONFIG, MEL, keep=(Keep('encoder.z', layers=(2,)),))


def test_the_encoder_lens_ends_with_the_model():
  run = jax.jit(lambda: model.encode(WEIGHTS, CONFIG, MEL, keep=('encoder.embed', 'encoder.resid_out'))[1])
  states = lens.encoder_states(run())
  norm = functools.partial(normalise, p=WEIGHTS.norm, eps=NORM_EPS)
  read = jax.jit(lambda states: decode(states=states).hidden)
  seen = lens.encoder_lens(states, norm, read)
  assert len(seen) == 1 + CONFIG.encoder_depth
  np.testing.assert_allclose(seen[-1], read(ENCODED), atol=1e-4)
  assert jnp.abs(seen[0] - seen[-1]).max() > 1e-3


def test_a_cross_attention_that_is_off_makes_the_audio_irrelevant():
  off = edits({('cross_z', None): zero}, sites=decoder.SITES, depth=3)
  read = jax.jit(lambda states: decode(states=states, edit=off).hidden)
  np.testing.assert_array_equal(read(ENCODED), read(2 * ENCODED))
