"""The decoder over pages computes what it computes over contiguous keys."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import decoder, mesh, moe
from core.engine.generate import for_decoding
from core.past.pages import Pages, by_page, by_token, pools
from kernels.tree.plan import plan

SIZE = 4
ALONE = mesh.make(devices=jax.devices()[:1])
apply = jax.jit(decoder.apply, static_argnames='config')
TINY = decoder.CONFIGS['tiny']
FAMILIES = {
  'qwen3': TINY,
  'gpt_oss': dataclasses.replace(
    TINY,
    qk_norm=False,
    sinks=True,
    windows=(5, None),
    qkv_bias=True,
    out_bias=True,
    moe=moe.Config(4, 2, 32, activation='clamped', bias=True),
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('family', FAMILIES)
def test_prompt_tokens_and_next_tokens_equal_the_full_pass(family):
  """Two prompts with a common first page are filled in at once, then both decode a token."""
  config = FAMILIES[family]
  params = for_decoding(decoder.init(jax.random.key(0), config))
  r = np.random.default_rng(0)
  first = r.integers(0, config.vocab, 11)
  second = np.concatenate([first[:SIZE], r.integers(0, config.vocab, 3)])
  tables = [[5, 2, 7], [5, 0]]
  k, v = (jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), x) for x in pools(config, 8, SIZE, jnp.float32, ALONE))

  def run(rows, k, v):
    """rows: (sequence, its table, place of the token) each."""
    at = np.array([t for _, _, t in rows])
    cache = Pages(
      k,
      v,
      plan([table for _, table, _ in rows], at + 1, page_size=SIZE, capacity=16),
      np.array([table[t // SIZE] for _, table, t in rows]),
      at % SIZE,
    )
    tokens = np.array([sequence[t] for sequence, _, t in rows])[:, None]
    out = apply(params, config, tokens, positions=at[:, None], cache=cache)
    return out.logits[:, 0], out.cache.k, out.cache.v

  rows = [(first, tables[0], t) for t in range(10)] + [(second, tables[1], t) for t in range(SIZE, 6)]
  got, k, v = run(rows, k, v)
  more, _, _ = run([(first, tables[0], 10), (second, tables[1], 6)], k, v)
  whole = [apply(params, config, s[None]).logits[0] for s in (first, second)]
  want = jnp.concatenate([whole[0][:10], whole[1][SIZE:6], whole[0][10:], whole[1][6:]])
  np.testing.assert_allclose(jnp.concatenate([got, more]), want, rtol=2e-4, atol=2e-4)


def test_impossible_calls_are_refused():
  params = decoder.init(jax.random.key(0), TINY)
  k, v = pools(TINY, 2, SIZE, jnp.float32, ALONE)
  cache = Pages(k, v, plan([[0]], [1], page_size=SIZE), np.zeros(1, int), np.zeros(1, int))
  for weights, tokens in ((params, [[1]]), (for_decoding(params), [[1, 2]])):
    with pytest.raises(ValueError, match='one token a row'):
      decoder.apply(weights, TINY, np.array(tokens), positions=np.zeros((1, len(tokens[0])), int), cache=cache)


def test_writing_whole_pages_equals_writing_tokens():
  """Adjacent tokens on one page, alone on another, and nowhere."""
  r = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(r.normal(size=shape), jnp.float32)
  args = draw(6, 2, 8, SIZE), draw(6, 2, SIZE, 8), draw(6, 2, 8), draw(6, 2, 8)
  page, offset = np.array([4, 4, 1, 6, 4, 6]), np.array([2, 3, 0, 0, 1, 3])
  got, want = (jax.jit(f)(*args, page, offset) for f in (by_page, by_token))
  for a, b in zip(got, want):
    np.testing.assert_array_equal(a, b)
  assert (np.asarray(got[0]) != args[0]).sum() == 4 * 2 * 8
