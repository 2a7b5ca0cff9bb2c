"""A cache, scanned or unstacked: pieces equal the whole, and decoding copies no buffer."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import decoder
from core.engine import generate
from core.engine.sampling import Sampling
from core.params import unstack
from core.past import cache as kv

CONFIG = decoder.Config(
  vocab=97,
  width=24,
  depth=2,
  heads=6,
  kv_heads=2,
  head_dim=8,
  mlp_width=40,
  norm_eps=1e-5,
  rope_theta=1e4,
  qk_norm=True,
  sinks=True,
  windows=(3, None),
)


apply = jax.jit(decoder.apply, static_argnums=1)


def draw(unstacked: bool) -> decoder.Params:
  params = jax.tree.map(lambda w: w * 10 if w.ndim > 2 else w, decoder.init(jax.random.key(0), CONFIG))
  return params.replace(blocks=unstack(params.blocks)) if unstacked else params


@pytest.mark.slow
@pytest.mark.parametrize('unstacked', [False, True])
def test_turns_of_any_length_equal_one_forward(unstacked):
  params = draw(unstacked)
  tokens = jax.random.randint(jax.random.key(1), (2, 12), 0, CONFIG.vocab)
  whole = apply(params, CONFIG, tokens).logits
  cache, pieces = kv.new(CONFIG, 2, 12, jnp.float32, unstacked=unstacked), []
  for start, stop in ((0, 5), (5, 6), (6, 10), (10, 12)):
    out = apply(params, CONFIG, tokens[:, start:stop], cache=cache)
    cache, pieces = out.cache, [*pieces, out.logits]
  np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=1e-5)
  assert int(cache.length) == 12 and (cache.positions == jnp.arange(12)).all()


@pytest.mark.slow
@pytest.mark.parametrize('unstacked', [False, True])
def test_a_full_cache_answers_nothing(unstacked):
  """Outside `jit` it says so; inside, where nothing can be raised, the logits are NaN from the first token too many."""
  params, token = draw(unstacked), jnp.ones((2, 1), int)
  cache = decoder.apply(params, CONFIG, jnp.ones((2, 3), int), cache=4).cache
  last = apply(params, CONFIG, token, cache=cache)
  assert jnp.isfinite(last.logits).all()
  assert jnp.isnan(apply(params, CONFIG, token, cache=last.cache).logits).all()
  with pytest.raises(ValueError, match='1 tokens do not fit a cache of 4 slots, of which 0 are free'):
    decoder.apply(params, CONFIG, token, cache=last.cache)


@pytest.mark.slow
def test_both_layouts_hold_the_same_keys_and_values():
  tokens = jax.random.randint(jax.random.key(1), (2, 5), 0, CONFIG.vocab)
  scanned, unstacked = (decoder.apply(draw(u), CONFIG, tokens, cache=8).cache for u in (False, True))
  np.testing.assert_allclose(jnp.swapaxes(jnp.stack(unstacked.k), -1, -2), scanned.k, atol=1e-5)
  np.testing.assert_allclose(jnp.stack(unstacked.v), scanned.v, atol=1e-5)


@pytest.mark.slow
def test_named_attention_refuses_keys_in_columns():
  params = draw(True)
  cache = kv.new(CONFIG, 1, 8, jnp.float32, unstacked=True)
  with pytest.raises(NotImplementedError, match='cudnn'):
    decoder.apply(params, CONFIG, jnp.ones((1, 1), int), cache=cache, attention='cudnn')


@pytest.mark.slow
def test_decoding_copies_no_cache():
  rows, slots = 3, 64
  positions = np.broadcast_to(np.arange(7), (rows, 7))
  run = generate.prompted(
    draw(True), CONFIG, np.ones((rows, 7), int), positions, max_new=20, sampling=Sampling.of(rows)
  )
  lowered = generate._decode.lower(run._step, run.state, run._sampling, run._ends, None, jnp.int32(20))
  text = lowered.compile().as_text()
  buffer = rf'f32\[{rows},{CONFIG.kv_heads},(?:{slots},8|8,{slots})\]'
  assert re.search(rf'= {buffer}\S* fusion', text), 'the update of a cache was not found'
  assert not re.search(rf'= {buffer}\S* copy', text)
