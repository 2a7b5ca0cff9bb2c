"""The search for a small set of components whose absence ends loops and little else."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from interp.loops.ablation import Component


@dataclasses.dataclass(frozen=True)
class Score:
  """ended: the share of loops that a set's absence ends. damage: edits a word in texts that did not loop."""

  ended: float
  damage: float


@dataclasses.dataclass(frozen=True)
class Found:
  """One set and its score."""

  parts: tuple[Component, ...]
  score: Score


def ranked(found: Sequence[Found], *, damage: float) -> list[Found]:
  """The sets that damage no more than `damage` first, by loops ended, then the milder."""

  def order(one: Found):
    return (one.score.damage > damage, -one.score.ended, one.score.damage)

  return sorted(found, key=order)


def forward(
  candidates: Sequence[Component],
  evaluate: Callable[[list[tuple[Component, ...]]], list[Score]],
  *,
  size: int,
  shortlist: int,
  damage: float,
) -> list[list[Found]]:
  """Forward selection: entry i ranks sets of i + 1 components, each the best set before and one more.

  shortlist: of components, the best by themselves, which are tried as a second and later member.
  """
  rounds: list[list[Found]] = []
  sets = [(part,) for part in candidates]
  for _ in range(size):
    scores = evaluate(sets)
    rounds.append(ranked([Found(*pair) for pair in zip(sets, scores)], damage=damage))
    best = rounds[-1][0].parts
    others = [one.parts[0] for one in rounds[0] if one.parts[0] not in best]
    sets = [(*best, part) for part in others[:shortlist]]
    if not sets:
      break
  return rounds


def controls(
  chosen: Sequence[Component], candidates: Sequence[Component], count: int, rng: np.random.Generator
) -> list[tuple[Component, ...]]:
  """Random sets of components of the same kinds as those chosen, none of which is among them.

  Raises ValueError where a kind has too few others.
  """
  kinds = [part.site for part in chosen]
  sets = []
  for _ in range(count):
    drawn: list[Component] = []
    for kind in sorted(set(kinds)):
      others = [part for part in candidates if part.site == kind and part not in chosen]
      wanted = kinds.count(kind)
      if len(others) < wanted:
        raise ValueError(f'loops: {len(others)} components of kind {kind!r} are left to draw {wanted} controls from')
      drawn += [others[i] for i in rng.choice(len(others), wanted, replace=False)]
    sets.append(tuple(drawn))
  return sets
