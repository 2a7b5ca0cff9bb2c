"""What a rollout of SvS reports: how far problems, texts and variants get, by kind, and the time of each phase."""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np

from core import mesh
from rl.rollout.groups import Group, Totals

SHARES = 5  # bins of the histogram of variants' accuracy


@dataclasses.dataclass(frozen=True)
class Counts:
  """half_solved: problems in the band, of `problems`. contexts: right responses that variants are written from.

  contexts_too_long, variants_rejected: left out. correct: right solutions of each variant.
  """

  half_solved: int = 0
  problems: int = 0
  contexts: int = 0
  contexts_too_long: int = 0
  variants_rejected: int = 0
  correct: tuple[int, ...] = ()


class Clock:
  """Seconds of named phases that follow one another."""

  def __init__(self):
    self.seconds: dict[str, float] = {}
    self._last = time.perf_counter()

  def lap(self, name: str) -> None:
    """The time since the last lap, or since the start, belongs to `name`."""
    now = time.perf_counter()
    self.seconds[name] = now - self._last
    self._last = now


def metrics(
  kinds: Sequence[str],
  sampled: Sequence[Group],
  trained: Sequence[Group],
  counts: Counts,
  clock: Clock,
  home: mesh.Share,
) -> Totals:
  """The metrics of one rollout, the same names each time."""
  processes = 1 / jax.process_count()
  sharing = len(mesh.processes(home.mesh))
  once = lambda n: (n / sharing, processes)  # summed over engines, whose processes all see the same
  variants = len(counts.correct)
  texts = [t for group in sampled for t in group.trajectories if t.kind == kinds.index('write')]
  found: Totals = {
    'svs/half_solved': (counts.half_solved, counts.problems),
    'svs/contexts': once(counts.contexts),
    'svs/contexts_too_long': once(counts.contexts_too_long),
    'svs/parsed': (variants + counts.variants_rejected, len(texts)),
    'svs/variants': once(variants),
    'svs/variants_rejected': once(counts.variants_rejected),
  }
  for number, kind in enumerate(kinds):
    found |= _of_kind(kind, [g for g in sampled if g.trajectories[0].kind == number])
    rows = sum(len(g.trajectories) for g in trained if g.trajectories[0].kind == number)
    found[f'svs/rows/{kind}'] = once(rows)
    found[f'seconds/{kind}'] = once(clock.seconds.get(kind, 0.0))
  return found | _histogram(counts.correct, _samples(sampled))


def _of_kind(kind: str, groups: Sequence[Group]) -> Totals:
  lengths = [len(t.tokens) for group in groups for t in group.trajectories]
  rewards = [float(r) for group in groups for r in group.totals]
  return {
    f'reward/{kind}': (sum(rewards), len(rewards)),
    f'response_length/{kind}': (sum(lengths), len(lengths)),
  }


def _samples(groups: Sequence[Group]) -> int:
  if groups:
    return len(groups[0].trajectories)
  return 1


def _histogram(correct: Sequence[int], samples: int) -> Totals:
  """The share of variants in each fifth of accuracy; a share of 1 belongs to the last."""
  fifths = np.minimum(np.array(correct, int) * SHARES // samples, SHARES - 1)
  counts = np.bincount(fifths, minlength=SHARES) if len(correct) else np.zeros(SHARES)
  return {f'svs/accuracy_{i}_of_{SHARES}': (float(n), len(correct)) for i, n in enumerate(counts)}
