"""The generate loop: batches that do not matter, other models' steps, hooks, programs that are not compiled twice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from core import decoder
from core.engine import generate as loop
from core.engine.sampling import Sampling

CONFIG = dataclasses.replace(decoder.CONFIGS['tiny'], vocab=40, max_length=128)
PARAMS = jax.tree.map(lambda w: w * 8, decoder.init(jax.random.key(0), CONFIG))  # far from uniform


def run(prompts, *, left=False, new=12, stops=(), params=PARAMS, width=0, **options):
  """The generated rows of a batch of ragged prompts, padded on one side to `width` or the longest."""
  width = max(width, *map(len, prompts))
  tokens, at = np.zeros((len(prompts), width), np.int32), np.full((len(prompts), width), -1, np.int32)
  for i, prompt in enumerate(prompts):
    where = slice(width - len(prompt), None) if left else slice(len(prompt))
    tokens[i, where], at[i, where] = prompt, np.arange(len(prompt))
  g = loop.prompted(params, CONFIG, tokens, at, max_new=new, stops=stops, sampling=Sampling.of(len(prompts), **options))
  g.advance()
  return [row.tolist() for row in g.rows()]


PROMPTS = [[1, 2, 3], [9, 8, 7, 6, 5, 4], [20]]


@pytest.mark.slow
def test_a_request_gets_the_same_tokens_in_any_batch():
  sampled = {'temperature': 1.0, 'top_p': 0.95}
  together = run(PROMPTS, seed=[5, 6, 7], **sampled)
  assert len({tuple(row) for row in together}) == 3
  assert [run([p], seed=[s], **sampled)[0] for p, s in zip(PROMPTS, (5, 6, 7))] == together
  assert run(PROMPTS[::-1], seed=[7, 6, 5], **sampled)[::-1] == together
  assert run(PROMPTS, left=True, width=20, seed=[5, 6, 7], **sampled) == together
  assert run(PROMPTS, seed=[5, 6, 8], **sampled)[:2] == together[:2]


@pytest.mark.slow
def test_greedy_equals_the_full_forward_pass():
  unstacked = loop.for_decoding(PARAMS)
  assert isinstance(unstacked.blocks, tuple)
  for params in (PARAMS, unstacked):
    for prompt, answer in zip(PROMPTS, run(PROMPTS, new=8, params=params)):
      tokens = np.array([prompt + answer], np.int32)
      best = np.asarray(decoder.apply(PARAMS, CONFIG, tokens).logits.argmax(-1))[0]
      assert best[len(prompt) - 1 : -1].tolist() == answer


def test_stops_and_limits_end_rows():
  free = run(PROMPTS)
  stop = free[1][4]
  stopped = run(PROMPTS, stops=[stop])
  for a, b in zip(free, stopped):
    assert b == (a[: a.index(stop) + 1] if stop in a else a)
  assert [len(row) for row in run(PROMPTS, new=[1, 12, 5])] == [1, 12, 5]


def test_advancing_in_steps_equals_one_go():
  tokens, at = np.array([PROMPTS[1]], np.int32), np.arange(6)[None]
  g = loop.prompted(PARAMS, CONFIG, tokens, at, max_new=12, sampling=Sampling.of(1, temperature=1.0, seed=[6]))
  for until in (3, 4, 9):
    g.advance(until)
    assert not g.finished and len(g.rows()[0]) == until
  g.advance()
  assert g.finished and g.rows()[0].tolist() == run([PROMPTS[1]], temperature=1.0, seed=[6])[0]


@pytest.mark.slow
def test_lengths_in_one_bucket_share_their_programs():
  run([[1, 2]], new=3)
  before = loop._prefill._cache_size(), loop._decode._cache_size()
  for length, new in ((1, 1), (7, 5), (31, 32), (32, 17)):
    run([[3] * length], new=new, temperature=1.0, top_k=4)
  assert (loop._prefill._cache_size(), loop._decode._cache_size()) == before
  run([[3] * 33], new=3)
  assert loop._prefill._cache_size() == before[0] + 1


def test_impossible_requests_are_refused():
  with pytest.raises(ValueError, match='context of 128'):
    run([[1] * 120], new=9)
  with pytest.raises(ValueError, match='row 1'):
    run([[1], []])


@struct.dataclass
class Counter:
  """A model without weights: the next token is the last one plus `by`, and the cache counts steps."""

  by: jax.Array

  def __call__(self, cache, token, position):
    """One step."""
    return 5 * jax.nn.one_hot((token[:, 0] + self.by) % 7, 7), cache + 1


def counted(by, hook=None, **options):
  """The generation of a `Counter` after the token 0."""
  first = 5 * jax.nn.one_hot(jnp.array([by, by]), 7)
  return loop.begin(
    Counter(jnp.int32(by)),
    jnp.int32(0),
    first,
    jnp.zeros(2, jnp.int32),
    max_new=5,
    sampling=Sampling.of(2),
    hook=hook,
    **options,
  )


def test_any_model_generates_by_its_step_and_equal_steps_share_a_program():
  g = counted(1)
  g.advance()
  assert [row.tolist() for row in g.rows()] == [[1, 2, 3, 4, 5]] * 2 and int(g.state.cache) == 4
  before = loop._decode._cache_size()
  g = counted(2)
  g.advance()
  assert g.rows()[0].tolist() == [2, 4, 6, 1, 3] and loop._decode._cache_size() == before


def test_a_hook_rewrites_logits_and_sees_the_tokens_so_far():
  def never_after_two(logits, state):
    return jnp.where((state.count >= 2)[:, None] & (jnp.arange(7) == 3), -jnp.inf, logits)

  g = counted(1, hook=never_after_two)
  g.advance()
  assert g.rows()[0].tolist() == [1, 2, 0, 1, 2]
  assert g.state.logp[0, 2] < -4  # of the model's own distribution


def test_more_than_eight_end_tokens_are_heeded():
  assert counted(1, stops=[*range(50, 60), 3]).advance().count.tolist() == [3, 3]


def test_logits_that_are_nan_end_a_row_with_an_error():
  g = counted(1, hook=None)
  broken = g.state.replace(position=g.state.position)
  step = jax.tree_util.Partial(lambda cache, token, position: (jnp.full((2, 7), jnp.nan).at[0].set(1.0), cache))
  g = loop.Generation(step, broken, g._sampling, g._ends)
  g.advance()
  assert g.state.failed.tolist() == [False, True] and g.state.count.tolist() == [5, 1]
  with pytest.raises(ValueError, match='row 1: the logits after 1 new tokens are NaN or infinite'):
    g.rows()


@pytest.mark.slow
def test_the_repetition_penalty_hook_equals_penalising_a_full_forward_pass():
  prompt, penalty = PROMPTS[1], 3.0
  hook = loop.RepetitionPenalty(jnp.asarray([prompt]), jnp.full(1, penalty))
  tokens, at = np.array([prompt]), np.arange(len(prompt))[None]
  state = loop.run(PARAMS, CONFIG, tokens, at, max_new=8, sampling=Sampling.of(1), hook=hook)
  said = list(prompt)
  for token in np.asarray(state.tokens)[0, :8].tolist():
    logits = np.asarray(decoder.apply(PARAMS, CONFIG, np.array([said])).logits[0, -1], np.float64)
    for seen in set(said):
      logits[seen] = logits[seen] * penalty if logits[seen] < 0 else logits[seen] / penalty
    assert token == logits.argmax()
    said.append(token)
