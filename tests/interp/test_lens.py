"""The lens normalises once, its last layer is the model, and its curves are what their names say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import decoder
from core.layers import rms_norm
from interp import lens
from tests.interp.tiny import CONFIG, TOKENS, WEIGHTS, apply

STREAM = apply(TOKENS, keep=('resid_out',)).kept['resid_out']


def norm(x):
  return rms_norm(x, WEIGHTS.norm, CONFIG.norm_eps)


def unembed(x):
  return decoder.logits(WEIGHTS, CONFIG, x)


@functools.cache
def seen(twice=False):
  run = functools.partial(lens.logit_lens, norm=(lambda x: norm(norm(x))) if twice else norm, unembed=unembed, top=3)
  return jax.jit(run)(STREAM)


def test_the_last_layer_is_the_model_and_a_second_norm_is_not():
  want = jax.nn.log_softmax(apply(TOKENS).logits, -1)
  np.testing.assert_allclose(seen().logp[-1], want.max(-1), atol=1e-4)
  np.testing.assert_array_equal(seen().top[-1], jax.lax.top_k(want, 3)[1])
  assert np.abs(seen(twice=True).logp[-1] - want.max(-1)).max() > 1e-2


def test_a_layer_of_the_lens_is_the_model_that_stops_there():
  logits = apply(TOKENS, edit=lens.exit_at(STREAM, 1)).logits
  logp = np.asarray(jax.nn.log_softmax(logits, -1), np.float64)
  np.testing.assert_allclose(seen().top_logp[1], np.sort(logp, -1)[..., ::-1][..., :3], atol=1e-4)
  np.testing.assert_allclose(seen().entropy[1], -(np.exp(logp) * logp).sum(-1), atol=1e-4)
  final = np.asarray(seen().top[-1, ..., :1])
  better = (logp > np.take_along_axis(logp, final, -1)).sum(-1)
  np.testing.assert_array_equal(seen().rank[1], better)


def test_saturation_is_the_layer_after_the_last_miss():
  rank = jnp.array([[0, 0, 5, 0], [2, 0, 0, 0], [0, 0, 0, 7]])[:, None]
  found = lens.Lens(top=None, top_logp=None, rank=rank, logp=jnp.log(0.5) * jnp.ones(rank.shape), entropy=rank)
  np.testing.assert_array_equal(lens.saturation(found)[0], [2, 0, 1, 3])
  np.testing.assert_array_equal(lens.first_hit(found)[0], [0, 0, 1, 0])
  curves = lens.curves(found, jnp.array([[True, True, False, False]]))
  np.testing.assert_allclose(curves['rank'], [0, 1, 0])
  np.testing.assert_allclose(curves['probability'], 0.5, rtol=1e-6)


def test_the_encoder_lens_normalises_every_layer_once():
  kept = {'encoder.embed': jnp.zeros((1, 2, 3)), 'encoder.resid_out': jnp.ones((4, 1, 2, 3))}
  states = lens.encoder_states(kept)
  assert lens.encoder_lens(states, norm=lambda x: 2 * x + 1, decode=lambda x: float(x.mean())) == [1, 3, 3, 3, 3]
  with pytest.raises(ValueError, match=r'encoder\.embed'):
    lens.encoder_states({'encoder.resid_out': STREAM})
