"""The engine's tokens equal the simple sampler's under any schedule.

Chunked prefill and attention by pages add in another order than the simple sampler does, so logits may differ in their
last bits; the tokens of these models must not.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import decoder, mesh
from core.engine import Engine, Request, device, pack
from core.engine import generate as loop
from core.engine.sampling import Sampling
from core.engine.scheduling.slot_requests import SlotRequests
from core.params import unstack
from core.past import pages

CONFIG = dataclasses.replace(decoder.CONFIGS['tiny'], vocab=40, width=32, mlp_width=48, max_length=64)
PARAMS = jax.tree.map(lambda w: w * 8, decoder.init(jax.random.key(0), CONFIG))  # far from uniform
OTHER = jax.tree.map(lambda w: w * 8, decoder.init(jax.random.key(1), CONFIG))
PROMPTS = [np.random.default_rng(i).integers(0, 40, n).tolist() for i, n in enumerate((1, 4, 9, 20, 27))]
PROMPTS += [PROMPTS[3][:13] + [1, 2], PROMPTS[4][:16]]
NEW = 24
KINDS = [
  {},
  {'temperature': 1.0},
  {'temperature': 0.7, 'top_k': 5},
  {'temperature': 1.3, 'top_p': 0.8},
  {'temperature': 1.0, 'min_p': 0.1},
]
SAMPLES = 4


def generate(prompts, options, seeds, params=PARAMS, config=CONFIG, new=NEW):
  """(tokens, log-probabilities) of the simple sampler, a list of rows each."""
  width = max(map(len, prompts))
  tokens = np.array([p + [0] * (width - len(p)) for p in prompts], np.int32)
  at = np.array([[*range(len(p)), *[-1] * (width - len(p))] for p in prompts], np.int32)
  s = Sampling.of(len(prompts), **options, seed=seeds)
  state = loop.run(params, config, tokens, at, max_new=new, sampling=s)
  return np.asarray(state.tokens)[:, :new].tolist(), np.asarray(state.logp)[:, :new]


@functools.cache
def expected():
  """(prompt, kind, sample) → tokens, by the simple sampler."""
  keys = [(p, k, s) for p in range(len(PROMPTS)) for k in range(len(KINDS)) for s in range(SAMPLES)]
  out = {}
  for kind in range(len(KINDS)):
    mine = [key for key in keys if key[1] == kind]
    rows, _ = generate([PROMPTS[p] for p, _, _ in mine], KINDS[kind], [100 * p + s for p, _, s in mine])
    out |= dict(zip(mine, rows))
  return out


@functools.cache
def engine(slots, pages):
  return Engine(PARAMS, CONFIG, slots=slots, pages=pages, page_size=4, segment=5, chunk=8)


@pytest.mark.parametrize('slots,pages', [pytest.param(3, 200, marks=pytest.mark.slow), (5, 16)])  # ample, and scarce
def test_tokens_equal_the_simple_samplers_under_random_schedules(slots, pages):
  """200 schedules of requests, samples, forks, cancellations and restarts of the cache."""
  e, want = engine(slots, pages), expected()
  r = np.random.default_rng(slots)
  before = e.scheduler.preempted
  for _ in range(100):
    asked = {}  # id → (key, where its tokens start in the sampler's answer)
    for _ in range(r.integers(1, 5)):
      p, k, n = int(r.integers(len(PROMPTS))), int(r.integers(len(KINDS))), int(r.integers(1, SAMPLES + 1))
      new = int(r.integers(1, NEW + 1))
      ids = e.submit(Request(PROMPTS[p], new, n=n, seed=100 * p, priority=int(r.integers(0, 3)), **KINDS[k]))
      asked |= {i: ((p, k, s), 0, new) for s, i in enumerate(ids)}
    while not e.idle:
      for c in e.step():
        key, start, new = asked.pop(c.id)
        assert c.tokens.tolist() == want[key][start : start + new]
        assert c.reason == 'length' and len(c.logp) == len(c.version) == new
      if asked and r.random() < 0.3:
        id = int(r.choice(list(asked)))
        key, start, new = asked[id]
        if r.random() < 0.7:
          keep = int(r.integers(0, len(e.so_far(id).tokens) + 1))
          (fork,) = e.fork(id, len(PROMPTS[key[0]]) + start + keep, seed=100 * key[0] + key[2])
          asked[fork] = key, start + keep, new - keep
        else:
          c = e.cancel(id)
          key, start, _ = asked.pop(id)
          assert c.reason == 'cancelled' and c.tokens.tolist() == want[key][start : start + len(c.tokens)]
      if r.random() < 0.02:
        e.scheduler.clear()
    assert not asked
  s = e.scheduler
  assert s.preempted > before
  s.cache.clear()
  assert s.pool.free == pages


@pytest.mark.slow
def test_log_probabilities_are_the_samplers():
  e = engine(3, 200)
  for kind in KINDS:
    rows, logp = generate([PROMPTS[2]], kind, [5])
    ids = e.submit(Request(PROMPTS[2], NEW, seed=5, **kind))
    (done,) = e.run()
    assert done.id == ids[0] and done.tokens.tolist() == rows[0]
    np.testing.assert_allclose(done.logp, logp[0], atol=2e-4)


@pytest.mark.slow
def test_nothing_is_compiled_after_construction():
  e = Engine(PARAMS, CONFIG, slots=2, pages=60, page_size=8, segment=3, chunk=12)
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: compiled.append(name) if 'backend_compile' in name else None
  )
  for i, kind in enumerate(KINDS):
    e.submit(Request(PROMPTS[3], 7 + i, n=3, stops=[3], **kind))
    e.submit(Request(PROMPTS[i], 1 + i, allowed=np.arange(40) % 2 == 0))
  ids = e.submit(Request(PROMPTS[0], 20))
  e.step()
  e.cancel(*e.fork(ids[0]))
  e.run()
  e.update(OTHER)
  e.submit(Request(PROMPTS[1], 5))
  e.run()
  assert not compiled
  jax.jit(lambda x: x + 1234)(1)
  assert compiled  # the listener listens
  jax.monitoring.clear_event_listeners()


@pytest.mark.slow
def test_slots_that_share_little_decode_from_a_copy_of_their_pages_with_equal_tokens(monkeypatch):
  e = Engine(PARAMS, CONFIG, slots=3, pages=27, page_size=4, segment=3, chunk=16)
  decode = e._programs.decode
  copied = []

  def spy(plan, slots):
    copied.append(slots.table is not None)
    return decode(plan, slots)

  monkeypatch.setattr(e._programs, 'decode', spy)
  for prompt in range(3):  # of 1, 4 and 9 tokens
    e.submit(Request(PROMPTS[prompt], 20, temperature=1.0, seed=100 * prompt))
  for prompt, done in enumerate(e.run()):
    assert done.tokens.tolist() == expected()[prompt, 1, 0][:20]
  assert any(copied)
  copied.clear()
  e.submit(Request(PROMPTS[4], 4, n=3, temperature=1.0, seed=400))  # 27 tokens, shared by all
  for sample, done in enumerate(e.run()):
    assert done.tokens.tolist() == expected()[4, 1, sample][:4]
  assert not any(copied)


@pytest.mark.slow
def test_samples_of_one_prompt_prefill_it_once():
  e = Engine(PARAMS, CONFIG, slots=3, pages=120, page_size=4, segment=5, chunk=8)
  e.submit(Request(PROMPTS[4], 6, n=16, temperature=1.0))
  e.run()
  assert e.stats.prefilled == len(PROMPTS[4]) - 1
  assert e.stats.copied == 15  # copies of the prompt's last page: 26 tokens are 6.5 pages
  e.submit(Request(PROMPTS[4] + [7], 6))  # a prompt that continues it
  e.run()
  assert e.stats.prefilled == len(PROMPTS[4]) - 1


@pytest.mark.slow
def test_a_fork_shares_pages_and_copies_at_most_one():
  e = Engine(PARAMS, CONFIG, slots=2, pages=40, page_size=4, segment=4, chunk=32)
  (id,) = e.submit(Request(PROMPTS[2], 24, temperature=1.0, seed=3))
  e.step()
  for at, copies in ((13, 0), (12, 1)):  # 12 and 11 tokens in pages
    before = dataclasses.replace(e.stats)
    (fork,) = e.fork(id, at, seed=9, max_new=3)
    (done,) = e.step()
    assert (e.stats.copied - before.copied, e.stats.prefilled - before.prefilled) == (copies, 0)
    said = e.so_far(id).tokens[: at - len(PROMPTS[2])].tolist()
    (want,), _ = generate([PROMPTS[2] + said], {'temperature': 1.0}, [9], new=3)
    assert done.id == fork and done.tokens.tolist() == want
  with pytest.raises(ValueError, match='fork at token 3; expected 9'):
    e.fork(id, 3)


def test_a_long_prompt_does_not_block_the_slots():
  e = engine(3, 200)
  (short,) = e.submit(Request(PROMPTS[0], NEW))
  e.step()
  e.scheduler.cache.clear()
  (long,) = e.submit(Request(PROMPTS[4], 5))
  e.step()
  assert len(e.so_far(short).tokens) == 10 and len(e.so_far(long).tokens) == 0
  e.run()


def test_higher_priority_is_done_first():
  """Its request comes last, when all slots are taken: the youngest sample is preempted and resumes later."""
  e = engine(3, 200)
  before = e.scheduler.preempted
  low = e.submit(Request(PROMPTS[0], NEW, n=3, temperature=1.0))
  e.step()
  (high,) = e.submit(Request(PROMPTS[2], 10, seed=200, temperature=1.0, priority=1))
  done = {}
  while not e.idle:
    done |= {c.id: c.tokens.tolist() for c in e.step()}
  assert list(done) == [high, *low] and e.scheduler.preempted == before + 1
  assert [done[i] for i in low] == [expected()[0, 1, s] for s in range(3)] and done[high] == expected()[2, 1, 0][:10]


def test_stops_and_allowed_tokens():
  e = engine(3, 200)
  e._text = lambda ids: ''.join(chr(97 + i) for i in ids)
  (free,), _ = generate([PROMPTS[1]], {'temperature': 1.0}, [1])
  text = e._text(free)
  for options, reason, end in (
    ({'stops': [free[6]]}, 'stop', free.index(free[6]) + 1),
    ({'stop_strings': [text[8:11], 'zzz']}, 'stop_string', text.index(text[8:11]) + 3),
  ):
    e.submit(Request(PROMPTS[1], NEW, temperature=1.0, seed=1, **options))
    (done,) = e.run()
    assert (done.tokens.tolist(), done.reason) == (free[:end], reason)
  even = np.arange(40) % 2 == 0
  e.submit(Request(PROMPTS[1], NEW, n=3, temperature=1.0, allowed=even))
  e.submit(Request(PROMPTS[1], NEW, temperature=1.0, seed=1))
  *masked, plain = e.run()
  assert all((c.tokens % 2 == 0).all() for c in masked) and plain.tokens.tolist() == free


@pytest.mark.slow
def test_unfinished_samples_continue_under_new_weights():
  e = Engine(PARAMS, CONFIG, slots=2, pages=60, page_size=4, segment=4, chunk=8)
  e.submit(Request(PROMPTS[2], 12, temperature=1.0, seed=2))
  e.step()
  e.update(OTHER)
  (done,) = e.run()
  first, _ = generate([PROMPTS[2]], {'temperature': 1.0}, [2], new=4)
  rest, _ = generate([PROMPTS[2] + first[0]], {'temperature': 1.0}, [2], params=OTHER, new=8)
  assert done.tokens.tolist() == first[0] + rest[0]
  assert done.version.tolist() == [0] * 4 + [1] * 8


@pytest.mark.slow
def test_the_content_of_unused_pages_has_no_effect():
  e = Engine(PARAMS, CONFIG, slots=3, pages=40, page_size=4, segment=5, chunk=8)
  p = e._programs
  p.k, p.v = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), (p.k, p.v))
  e.submit(Request(PROMPTS[4], NEW, n=4, temperature=1.0, seed=400))
  assert [c.tokens.tolist() for c in e.run()] == [expected()[4, 1, s] for s in range(4)]


@pytest.mark.slow
def test_sinks_and_windows():
  config = dataclasses.replace(CONFIG, sinks=True, windows=(6, None))
  params = jax.tree.map(lambda w: w * 8, decoder.init(jax.random.key(3), config))
  params = params.replace(
    blocks=params.blocks.replace(
      attn=params.blocks.attn.replace(sinks=jax.random.normal(jax.random.key(4), (config.depth, config.heads)))
    )
  )
  e = Engine(params, config, slots=3, pages=60, page_size=4, segment=5, chunk=8)
  e.submit(Request(PROMPTS[4], NEW, n=3, temperature=1.0, seed=8))
  rows, _ = generate([PROMPTS[4]] * 3, {'temperature': 1.0}, [8, 9, 10], params=params, config=config)
  assert [c.tokens.tolist() for c in e.run()] == rows


@pytest.mark.slow
def test_decoding_copies_no_weights_and_no_pages():
  """Temporary memory of the compiled segment, on shapes alone, stays below half of one layer's weights."""
  config = dataclasses.replace(
    decoder.CONFIGS['tiny'],
    vocab=2048,
    width=512,
    heads=8,
    kv_heads=4,
    head_dim=64,
    mlp_width=1536,
    tied=False,
    depth=3,
  )
  e = engine(3, 200)
  read, slots = pack.segment(e.scheduler, np.zeros(3, bool), *SlotRequests(3, config.vocab).arrays())
  weights = jax.eval_shape(lambda: (w := decoder.init(jax.random.key(0), config)).replace(blocks=unstack(w.blocks)))
  k, v = pages.abstract(config, 200, 4, jnp.float32, mesh.of(PARAMS))
  table = jax.ShapeDtypeStruct((3, 2048), bool)
  compiled = device.decode.lower(
    weights, k, v, read, slots, device.Tables(table, table), config=config, segment=5
  ).compile()
  layer = sum(w.size * 4 for w in jax.tree.leaves(weights.blocks[0]))
  memory = compiled.memory_analysis()
  assert memory.temp_size_in_bytes < layer / 2
  assert memory.alias_size_in_bytes >= sum(x.size * 4 for x in jax.tree.leaves((k, v)))


def test_impossible_requests_are_refused():
  e = engine(3, 200)
  for request, message in (
    (Request([1] * 60, 5), 'context of 64'),
    (Request([40], 1), 'vocabulary of 40'),
    (Request([1], 1, stop_strings=['a']), 'stop strings'),
    (Request([1], 1, allowed=np.ones(3, bool)), r'expected a non-empty choice among \(40,\)'),
    (Request([1], 1, media=[np.zeros((1, 8, 8, 3))]), 'with `features`'),
  ):
    e._text = None
    with pytest.raises(ValueError, match=message):
      e.submit(request)
  with pytest.raises(ValueError, match='slots=0'):
    Engine(PARAMS, CONFIG, slots=0, pages=1, page_size=1, segment=1)
  assert e.idle
  (id,) = e.submit(Request([1], 4))
  with pytest.raises(ValueError, match='context of 64'):
    e.fork(id, max_new=64)
  with pytest.raises(KeyError):
    e.cancel(id + 1)
  assert e.cancel(id).reason == 'cancelled' and e.idle
