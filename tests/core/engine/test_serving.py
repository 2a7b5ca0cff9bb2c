"""What a server needs of the engine: streams, threads, a bounded queue, forks, end tokens, penalties, errors."""

import dataclasses
import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import decoder
from core.engine import Engine, QueueFull, Request
from core.engine import generate as loop
from core.engine.sampling import Sampling

CONFIG = dataclasses.replace(decoder.CONFIGS['tiny'], vocab=40, width=32, mlp_width=48, max_length=64, depth=1)
PARAMS = jax.tree.map(lambda w: w * 8, decoder.init(jax.random.key(0), CONFIG))  # far from uniform
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


def letters(tokens):
  """Each token as a letter of its own."""
  return ''.join(chr(200 + t) for t in tokens)


@functools.cache
def engine():
  """An idle engine."""
  return Engine(PARAMS, CONFIG, slots=3, pages=80, page_size=4, segment=3, chunk=8, text=letters)


def tokens_of(request):
  """The tokens of a request's only sample."""
  engine().submit(request)
  (done,) = engine().run()
  return done.tokens.tolist()


@pytest.mark.slow
def test_steps_report_the_tokens_so_far():
  e, heard = engine(), {}
  ids = e.submit(Request(PROMPT, 10, n=2, temperature=1.0, seed=4))
  done = []
  while not e.idle:
    done += e.step(lambda id, tokens, logp, top: heard.setdefault(id, []).append((tokens, logp)))
  for c in done:
    pieces = heard[c.id]
    assert [t for tokens, _ in pieces for t in tokens] == c.tokens.tolist() and len(pieces) > 2
    np.testing.assert_array_equal(np.float32([x for _, logp in pieces for x in logp]), c.logp)
  assert sorted(heard) == ids


@pytest.mark.slow
def test_likeliest_tokens_are_those_of_a_forward_pass_and_change_no_sample():
  sizes = {'slots': 2, 'pages': 80, 'page_size': 4, 'segment': 3, 'chunk': 8}
  e, heard = Engine(PARAMS, CONFIG, **sizes, top_logprobs=3), {}
  asked = {'max_new': 7, 'temperature': 0.7, 'seed': 4}
  (plain,), (id,) = e.submit(Request(PROMPT, **asked)), e.submit(Request(PROMPT, top_logprobs=2, **asked))
  done = {}
  while not e.idle:
    told = lambda id, tokens, logp, top: heard.setdefault(id, []).extend(top)
    done |= {c.id: c for c in e.step(told)}
  assert done[plain].tokens.tolist() == done[id].tokens.tolist() and heard[plain] == []
  row = jnp.array([[*PROMPT, *done[id].tokens.tolist()]])
  logits = np.float64(decoder.apply(PARAMS, CONFIG, row).logits[0, len(PROMPT) - 1 : -1]) / 0.7
  want = (
    logits
    - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    - logits.max(-1, keepdims=True)
  )
  order = np.argsort(-want, -1)[:, :2]
  assert [[token for token, _ in top] for top in heard[id]] == order.tolist()
  got = [[value for _, value in top] for top in heard[id]]
  # Log-probabilities down to -67 are differences of float32 logits: 1e-5 of them is some ten times their rounding.
  np.testing.assert_allclose(got, np.take_along_axis(want, order, -1), rtol=1e-5, atol=1e-4)
  with pytest.raises(ValueError, match='top_logprobs=4'):
    e.submit(Request(PROMPT, 1, top_logprobs=4))


def test_submitting_and_cancelling_from_other_threads_changes_no_tokens():
  e = engine()
  want = [tokens_of(Request(PROMPT, 12, temperature=1.0, seed=s)) for s in range(6)]
  got, cancelled, stop = {}, [], threading.Event()

  def client(seed):
    for _ in range(4):
      (id,) = e.submit(Request(PROMPT, 12, temperature=1.0, seed=seed))
      with pytest.raises(KeyError):
        e.cancel(-1)
      expected[id] = seed
      (other,) = e.submit(Request(PROMPT[:3], 40, temperature=1.0, seed=seed + 50))
      cancelled.append(e.cancel(other))

  expected: dict[int, int] = {}
  clients = [threading.Thread(target=client, args=(seed,)) for seed in range(6)]

  def serve():
    while not (stop.is_set() and e.idle):
      got.update({c.id: c.tokens.tolist() for c in e.step()})

  server = threading.Thread(target=serve)
  for thread in [server, *clients]:
    thread.start()
  for thread in clients:
    thread.join()
  stop.set()
  server.join()
  assert len(expected) == 24 and got == {id: want[seed] for id, seed in expected.items()}
  assert all(c.reason == 'cancelled' for c in cancelled) and len(cancelled) == 24
  e.scheduler.cache.clear()
  assert e.scheduler.pool.free == 80


def test_the_queue_is_bounded():
  e = engine()
  e._max_queued = 3
  try:
    ids = e.submit(Request(PROMPT, 4, n=3))
    with pytest.raises(QueueFull, match='3 sequences wait and 1 more were submitted; expected at most 3'):
      e.submit(Request(PROMPT, 4))
    assert e.cancel(ids[1]).reason == 'cancelled'
    (last,) = e.submit(Request(PROMPT, 4))
    assert [c.id for c in e.run()] == [ids[0], ids[2], last]
  finally:
    e._max_queued = None


def test_forks_honour_n_and_do_not_repeat_their_parent():
  e = engine()
  (parent,) = e.submit(Request(PROMPT, 30, temperature=20.0, seed=7))  # the weights are far from uniform
  e.step()
  at = len(PROMPT) + 2
  forks = e.fork(parent, at, n=3) + e.fork(parent, at)
  done = {c.id: c.tokens.tolist() for c in e.run()}
  continuations = [tuple(done[id][:28]) for id in forks] + [tuple(done[parent][2:])]
  assert len(forks) == 4 and len(set(continuations)) == 5


def test_any_number_of_end_tokens():
  free = tokens_of(Request(PROMPT, 24, temperature=1.0, seed=1))
  unused = [t for t in range(40) if t not in free]
  stops = [*unused[:9], free[7]]  # the last one is beyond what the device checks
  assert tokens_of(Request(PROMPT, 24, temperature=1.0, seed=1, stops=stops)) == free[: free.index(free[7]) + 1]


def test_a_stop_string_may_begin_before_a_fork_or_in_a_resubmitted_prompt():
  e = engine()
  free = tokens_of(Request(PROMPT, 24, temperature=1.0, seed=1))
  text = letters(free)
  stop = text[5:9]
  end = text.index(stop) + 4
  assert tokens_of(Request(PROMPT, 24, temperature=1.0, seed=1, stop_strings=stop)) == free[:end]
  for said in (6, 8):  # the string begins before this token and ends after it
    again = Request(PROMPT + free[:said], 24 - said, temperature=1.0, seed=1, stop_strings=[stop])
    assert tokens_of(again) == free[said:end]
  (id,) = e.submit(Request(PROMPT, 24, temperature=1.0, seed=1, stop_strings=[stop]))
  e.step()
  e.step()
  (fork,) = e.fork(id, len(PROMPT) + 6, seed=1)
  done = {c.id: c for c in e.run()}
  assert done[fork].tokens.tolist() == free[6:end] and done[fork].reason == 'stop_string'
  whole = tokens_of(Request(PROMPT + free[:end], 3, temperature=1.0, seed=1, stop_strings=[stop]))
  assert whole == free[end : end + 3]  # a string that was complete before does not count


@pytest.mark.slow
def test_the_repetition_penalty_equals_the_simple_loops():
  others = Request(PROMPT[:5], 20, n=2, temperature=1.0, seed=70)
  for penalty, temperature in ((1.5, 0.0), (3.0, 1.0), (0.7, 1.0)):
    hook = loop.RepetitionPenalty(jnp.asarray([PROMPT]), jnp.full(1, penalty))
    sampling = Sampling.of(1, temperature=temperature, seed=[9])
    at = np.arange(len(PROMPT))[None]
    state = loop.run(PARAMS, CONFIG, np.array([PROMPT]), at, max_new=20, sampling=sampling, hook=hook)
    engine().submit(others)
    request = Request(PROMPT, 20, temperature=temperature, seed=9, repetition_penalty=penalty)
    (id,) = engine().submit(request)
    engine().step()
    engine().scheduler.clear()  # it enters a slot a second time
    done = next(c for c in engine().run() if c.id == id)
    assert done.tokens.tolist() == np.asarray(state.tokens)[0, :20].tolist()
    np.testing.assert_allclose(done.logp, state.logp[0, :20], rtol=1e-3, atol=1e-3)


def test_changing_a_mask_after_submission_changes_nothing():
  mask = np.arange(40) % 2 == 0
  engine().submit(Request(PROMPT, 9, temperature=1.0, allowed=mask))
  mask[:] = np.arange(40) == 3
  (done,) = engine().run()
  assert (done.tokens % 2 == 0).all()


@pytest.mark.slow
def test_logits_that_are_nan_end_a_sample_with_an_error():
  e = Engine(PARAMS, CONFIG, slots=2, pages=30, page_size=4, segment=3, chunk=8)
  e.update(PARAMS.replace(norm=PARAMS.norm * jnp.nan))
  e.submit(Request(PROMPT, 5, n=2, temperature=1.0))
  done = e.run()
  assert [(c.reason, len(c.tokens)) for c in done] == [('error', 0)] * 2
  e.update(PARAMS)
  (id,) = e.submit(Request(PROMPT, 5, temperature=1.0))
  (done,) = e.run()
  assert done.id == id and done.reason == 'length' and np.isfinite(done.logp).all()


class Climbing:
  """Each token is above the last, and the last of all ends the sample; log: every mask that was asked for."""

  def __init__(self):
    self.last, self.asked = 4, 0

  def allowed(self):
    self.asked += 1
    return np.arange(40) > self.last

  def push(self, tokens):
    assert len(tokens) == 1 and tokens[0] > self.last
    self.last = tokens[0]


def test_a_constraint_is_asked_for_each_token_and_disturbs_no_other_request():
  e, made = engine(), []
  free = Request(PROMPT, 12, temperature=1.0, seed=3)
  want = tokens_of(free)
  constraint = lambda: made.append(Climbing()) or made[-1]
  climbers = e.submit(Request(PROMPT, 9, n=2, temperature=1.0, stops=[39], constraint=constraint))
  (plain,) = e.submit(free)
  e.step()
  e.scheduler.clear()  # all enter a slot a second time
  done = {c.id: c for c in e.run()}
  assert done[plain].tokens.tolist() == want
  for id in climbers:
    tokens = done[id].tokens
    assert (np.diff(tokens) > 0).all() and tokens[0] > 4
    assert done[id].reason == ('stop' if tokens[-1] == 39 else 'length')
  assert len(made) == 2 and all(m.asked > 1 for m in made)
  assert tokens_of(free) == want  # the mask left the slot with the sample


def test_a_sample_with_a_constraint_has_no_forks():
  (id,) = engine().submit(Request(PROMPT, 9, constraint=Climbing))
  with pytest.raises(ValueError, match='has a constraint'):
    engine().fork(id)
  engine().cancel(id)
