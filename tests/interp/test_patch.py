"""The grid is the loop, the loop is the definition, attribution its first order, and a planted head is found."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import decoder
from interp import patch
from interp.sites import at, edits, replace
from tests.interp.tiny import CONFIG, OTHER, TOKENS, WEIGHTS, apply

COMPONENTS = ('z', 'pattern')
STREAM = ('resid_out', 'mlp_out')


def forward(edit, params=WEIGHTS):
  """The probability-like metric: the last token's first logit less its second."""
  logits = decoder.apply(params, CONFIG, TOKENS, edit=edit).logits[:, -1]
  return jnp.mean(logits[:, 0] - logits[:, 1])


@functools.cache
def kept(other: bool):
  return apply(OTHER if other else TOKENS, keep=COMPONENTS + STREAM).kept


@pytest.mark.slow
def test_the_grid_is_the_loop():
  axes = patch.Axes(components=('z',), layers=(0, 2), heads=(1, 3), positions=(0, 4, 5))
  grid = patch.sweep(forward, axes, kept(True), block=5)
  assert grid.shape == axes.shape == (1, 2, 2, 3)

  @functools.partial(jax.jit, static_argnames=('layer', 'head', 'position'))
  def alone(layer, head, position):
    change = at(replace(kept(True)['z'][layer]), heads=(head,), positions=(position,))
    return forward(edits({('z', layer): change}))

  for (i, j, k), value in np.ndenumerate(np.asarray(grid[0])):
    if (i + j + k) % 3 == 0:
      np.testing.assert_allclose(value, alone(axes.layers[i], axes.heads[j], axes.positions[k]), atol=1e-5)


@pytest.mark.slow
def test_patching_by_itself_does_nothing_and_the_whole_stream_gives_the_other_run():
  axes = patch.Axes(components=('resid_out', 'pattern'), layers=(1, 2))
  same = patch.sweep(forward, axes, kept(False))
  np.testing.assert_allclose(same, jax.jit(forward)(None), atol=1e-5)
  want = apply(OTHER).logits[:, -1]
  got = patch.sweep(forward, patch.Axes(components=('resid_out',), layers=(2,)), kept(True))
  np.testing.assert_allclose(got, jnp.mean(want[:, 0] - want[:, 1]), atol=1e-5)


@pytest.mark.slow
def test_attribution_is_patching_to_first_order():
  names = ('z', 'mlp_out')
  scores = patch.attribution(forward, names, kept(True), kept(False))
  assert scores['z'].shape == (3, 2, 6, 4) and scores['mlp_out'].shape == (3, 2, 6)
  small = 1e-2
  start = jax.jit(forward)(None)
  for name in names:
    axes = patch.Axes(components=(name,), layers=(0, 1, 2))
    effect = (patch.sweep(forward, axes, kept(True), alpha=small)[0, :, 0, 0] - start) / small
    want = scores[name].reshape(3, -1).sum(1)
    np.testing.assert_allclose(effect, want, atol=0.05 * np.abs(want).max())


def test_a_planted_head_is_found():
  only = jnp.zeros((3, 4, 1, 1)).at[1, 2].set(1)
  attn = WEIGHTS.blocks.attn
  planted = WEIGHTS.replace(blocks=WEIGHTS.blocks.replace(attn=attn.replace(o=attn.o * only)))
  run = functools.partial(forward, params=planted)
  axes = patch.Axes(components=('z',), layers=(0, 1, 2), heads=(0, 1, 2, 3))
  effect = np.abs(patch.sweep(run, axes, patch.zeros(kept(False))) - jax.jit(run)(None))[0, :, :, 0]
  assert effect.argmax() == 1 * 4 + 2
  assert np.delete(effect.reshape(-1), 6).max() < 1e-5 < 1e-3 < effect.max()


def test_means_keep_heads_apart():
  values = patch.means(kept(False))
  assert values['z'].shape == (3, 1, 1, 4, 4) and values['pattern'].shape == (3, 1, 4, 1, 6)
  np.testing.assert_allclose(values['z'][1, 0, 0, 2], kept(False)['z'][1, :, :, 2].mean((0, 1)), atol=1e-6)


def test_grids_that_no_run_has_are_refused():
  for options, word in (
    ({'components': (), 'layers': (0,)}, 'at least one'),
    ({'components': ('mlp_out',), 'layers': (0,), 'heads': (0,)}, 'mlp_out'),
  ):
    with pytest.raises(ValueError, match=word):
      patch.Axes(**options)
  for options, word in (
    ({'components': ('q',), 'layers': (0,)}, 'no values'),
    ({'components': ('z',), 'layers': (3,)}, '0 to 2'),
    ({'components': ('z',), 'layers': (0,), 'heads': (4,)}, '0 to 3'),
    ({'components': ('pattern',), 'layers': (0,), 'positions': (6,)}, '0 to 5'),
  ):
    with pytest.raises(ValueError, match=word):
      patch.sweep(forward, patch.Axes(**options), kept(True))
