"""Requests over rows: who gets which row and when, on rows of pure bookkeeping; and by the model, each as if alone."""

import random

import numpy as np
import pytest

from tests.vibevoice import tiny
from tests.vibevoice.ledger import SPEECH, Ledger
from vibevoice import generation
from vibevoice.generation.rows import Rows
from vibevoice.generation.scheduler import Request, Scheduler


def request(name: int, length: int, **more) -> Request:
  """A prompt of `length` tokens with START whose first one is its name."""
  tokens = np.full(length, name)
  return Request(tokens, np.zeros(length, bool), np.zeros((0, 4), np.float32), **more)


def drain(scheduler: Scheduler) -> dict[int, list]:
  """All news by ticket, until nothing is left to do."""
  news = {}
  for _ in range(1000):
    if scheduler.is_idle:
      return news
    for made in scheduler.step():
      news.setdefault(made.ticket, []).append(made)
  raise AssertionError('the scheduler never ends')


def test_every_request_is_spoken_once_whatever_arrives_and_leaves():
  rng = random.Random(0)
  for _ in range(30):
    scheduler = Scheduler(Ledger())
    names, news, cancelled = {}, {}, set()
    for name in range(12):
      names[scheduler.submit(request(name, rng.randint(2, 40)))] = name
      if rng.random() < 0.3:
        leaving = rng.choice(list(names))
        cancelled |= {leaving} if not any(m.end for m in news.get(leaving, [])) else set()
        scheduler.cancel(leaving)
      for _ in range(rng.randint(0, 6)):
        for made in scheduler.step():
          assert made.ticket not in cancelled
          news.setdefault(made.ticket, []).append(made)
    for ticket, rest in drain(scheduler).items():
      news.setdefault(ticket, []).extend(rest)
    for ticket, name in names.items():
      said = [made.samples[0] for made in news.get(ticket, [])]
      assert ticket in cancelled or (said == [name] * SPEECH and news[ticket][-1].end == 'complete')
    assert scheduler.running == scheduler.waiting == 0


def test_a_long_prompt_does_not_stop_the_others():
  scheduler = Scheduler(Ledger())
  short = scheduler.submit(request(1, 5))
  assert [made.ticket for made in scheduler.step()] == [short]
  long = scheduler.submit(request(2, 33))  # 32 tokens to read: four pieces
  tickets = [[made.ticket for made in scheduler.step()] for _ in range(4)]
  assert tickets == [[short], [short], [short], [long]]


def test_first_come_first_served_and_a_cancelled_row_is_free_at_once():
  scheduler = Scheduler(Ledger())
  tickets = [scheduler.submit(request(name, 3)) for name in range(5)]
  scheduler.step()
  assert (scheduler.running, scheduler.waiting) == (3, 2)
  scheduler.cancel(tickets[4])
  scheduler.cancel(tickets[1])
  scheduler.step()
  assert (scheduler.running, scheduler.waiting) == (3, 0)
  assert set(drain(scheduler)) == {tickets[0], tickets[2], tickets[3]}


def test_limits_and_caches():
  rows = Ledger()
  scheduler = Scheduler(rows)
  cut = scheduler.submit(request(1, 3, limit=2))
  large = scheduler.submit(request(2, 60))
  news = drain(scheduler)
  assert [made.end for made in news[cut]] == ['', 'truncated'] and news[large][-1].end == 'complete'
  assert rows.capacity == 64
  scheduler.submit(request(3, 3))
  drain(scheduler)
  assert rows.capacity == 16  # small again once all rows were free
  with pytest.raises(ValueError, match='a prompt of 65 tokens is 2 too long: the context is 64'):
    scheduler.submit(request(4, 65))
  with pytest.raises(ValueError, match='limit=0'):
    scheduler.submit(request(4, 4, limit=0))


def model_request(inputs, **options) -> Request:
  latents = generation.prefill.voice_latents(tiny.params(), tiny.CONFIG, inputs.voices, seed=options['seed'])
  return Request(inputs.tokens, inputs.slots, latents, scale=1.7, **options)


def alone(inputs, *, seed, limit):
  """The speech of one prompt as `generation.begin` makes it."""
  options = {'steps': 3, 'scale': 1.7, 'seed': seed, 'limit': limit}
  made = generation.begin(tiny.params(), tiny.CONFIG, [inputs], **options)
  return [frame.samples[0] for frame in made.frames() if frame.spoken[0]]


@pytest.mark.slow
def test_each_row_speaks_as_if_alone():
  # More prompts than rows; one is read in two pieces while another speaks, and one leaves the queue.
  prompts = [tiny.prompt(9, (tiny.clip(3 * tiny.HOP - 5),)), tiny.prompt(300, (tiny.clip(9 * tiny.HOP),), seed=1)]
  prompts += [tiny.prompt(14, seed=2), tiny.prompt(40, seed=3)]
  scheduler = Scheduler(Rows(tiny.params(), tiny.CONFIG, 2, steps=3, smallest_cache=256))
  tickets = [scheduler.submit(model_request(x, seed=5 + i, limit=6)) for i, x in enumerate(prompts)]
  left = scheduler.submit(model_request(prompts[0], seed=0, limit=6))
  heard = {}
  scheduler.cancel(left)
  for ticket, news in drain(scheduler).items():
    heard[ticket] = [made.samples for made in news if made.samples is not None]
  for i, ticket in enumerate(tickets):
    wanted = alone(prompts[i], seed=5 + i, limit=6)
    assert len(heard[ticket]) == len(wanted) > 0
    np.testing.assert_allclose(heard[ticket], wanted, atol=2e-3)


@pytest.mark.slow
def test_other_rows_are_untouched_when_one_enters_and_leaves():
  def speech(disturbed: bool):
    scheduler = Scheduler(Rows(tiny.params(), tiny.CONFIG, 2, steps=2, smallest_cache=256))
    mine = scheduler.submit(model_request(tiny.prompt(20, seed=4), seed=1, limit=8))
    other, heard = None, []
    for step in range(8):
      if disturbed and step == 2:
        other = scheduler.submit(model_request(tiny.prompt(30, seed=5), seed=2, limit=8))
      if disturbed and step == 5:
        scheduler.cancel(other)
      heard += [made.samples for made in scheduler.step() if made.ticket == mine and made.samples is not None]
    return heard

  quiet, busy = speech(False), speech(True)
  assert len(quiet) == len(busy) > 2
  np.testing.assert_array_equal(quiet, busy)
