"""The offline phase of a cascade, on samples that are given."""

import jax
import numpy as np
import pytest

from core import mesh
from core.training.optim import Optim
from rl import policy as policies
from rl.preference import Limits, MpoPhase, Offline, Records
from rl.preference import samples as samples_lib
from rl.preference.offline import offline
from rl.rollout.collect import QuerySource
from rl.tasks import TASKS

LIMITS = Limits(prompt=48, response=48, tiles=3)
MPO = MpoPhase(steps=2, batch=4, limits=LIMITS, reference_batch=4, optim=Optim(lr=1e-3, schedule='constant'))


class Mute:
  """A sampler that only counts updates."""

  updates = 0

  def __init__(self, place):
    self.home = mesh.Share(place, place)

  def update(self, weights):
    """New weights."""
    self.updates += 1


@pytest.mark.slow
def test_pairs_and_queries_come_from_the_samples_and_are_kept(tmp_path, monkeypatch):
  options = {'settings': Offline(queries=6, samples=4, phase=MPO), 'max_new': 48}
  place = mesh.make(devices=jax.devices()[:1])
  p, weights = policies.load('tiny', place)
  source = QuerySource(TASKS['expressions'], p, 0, 1000)
  calls = []

  def sample(sampler, queries, draw, scorer, *, samples: int, **_):
    calls.append(len(queries))
    say = lambda n, i, q: q.solution if i < n % 5 else f'<think></think>\\boxed{{{900 + i}}}'
    right = lambda n: [i < n % 5 for i in range(samples)]
    return [samples_lib.score(q, [say(n, i, q) for i in range(samples)], right(n)) for n, q in enumerate(queries)]

  monkeypatch.setattr(samples_lib, 'sample', sample)
  copy = lambda: jax.tree.map(lambda x: x.copy(), weights)
  trained, kept = offline(copy(), Mute(place), source, None, tmp_path, place, **options)
  assert kept == [1, 2, 3] and calls == [6, 6]  # 0 and 5 are never right, 4 always is
  assert {p.meta['kind'] for p in Records(tmp_path / 'pairs.jsonl')} == {'correctness'}
  again, same = offline(copy(), Mute(place), source, None, tmp_path, place, **options)
  assert same == kept and calls == [6, 6]  # nothing is sampled a second time
  for a, b in zip(jax.tree.leaves(trained), jax.tree.leaves(again)):
    np.testing.assert_array_equal(a, b)
