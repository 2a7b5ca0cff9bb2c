"""The request of a fork."""

import numpy as np

from core.engine.request import Request
from core.engine.scheduling.fork import forked
from core.engine.scheduling.sequence import Prompt, Sequence


def parent(**fields):
  request = Request([1, 2], 10, **fields)
  return Sequence(0, request, 2, Prompt(np.array(request.prompt, np.int64)))


def test_it_continues_its_parent_with_what_is_left():
  made = forked(parent(n=4, temperature=0.7, media=('image',), stops=(5,)), [8, 9, 8], {})
  assert made.prompt == (1, 2, 8, 9, 8) and made.max_new == 7 and made.n == 1
  assert made.temperature == 0.7 and made.stops == (5,) and made.media == ()  # the names in the prompt hold the media


def test_changes_replace_fields_but_not_the_prompt():
  made = forked(parent(), [8], {'max_new': 3, 'seed': 5, 'prompt': [0]})
  assert made.max_new == 3 and made.seed == 5 and made.prompt == (1, 2, 8)


def test_its_seeds_are_its_own():
  seeds = set()
  for at in range(1, 60):
    for forks in range(6):
      p = parent(seed=2**31 - 4, n=8)
      p.forks = forks
      made = forked(p, [8] * min(at, 9), {'n': 3})
      seeds.add(made.seed)
      own = (p.request.seed + p.sample) % 2**31
      assert own not in {(made.seed + i) % 2**31 for i in range(3)}
  assert len(seeds) == 9 * 6  # one for each place and each fork there
