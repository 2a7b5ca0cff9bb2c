"""From recordings to the components that make Whisper repeat itself: find loops, choose on half, count on the other."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from interp.loops import search
from interp.loops.ablation import Component, components
from interp.loops.clips import Clip, word_errors
from interp.loops.outcomes import Outcome, Outcomes, Parts, ended, unedited
from interp.loops.search import Found, Score


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a study is done.

  size: components of the largest set. shortlist: components tried as a further member. damage: edits a word of texts
  that did not loop, which a set may cause. controls: random sets. most: clips that loop, chosen at random above it.
  """

  size: int = 3
  shortlist: int = 12
  damage: float = 0.01
  controls: int = 10
  most: int = 40
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Held:
  """A set, and for each held-out clip what is said without it."""

  parts: Parts
  outcomes: tuple[Outcome, ...]

  @property
  def ended(self) -> float:
    """The share of clips that no longer loop."""
    return float(np.mean([not outcome.loops for outcome in self.outcomes]))


@dataclasses.dataclass(frozen=True)
class Study:
  """What was found.

  loops: clips that loop, with what is said. chosen, held: indices of its halves. unlooped: clips by which damage is
  measured. rounds: of the search. sets: the best set of each size on the held-out half. by_clip: bool [components,
  chosen clips], whether a single component's absence ends the loop. controls: random sets of the kinds of the largest.
  """

  clips: int
  loops: tuple[tuple[Clip, Outcome], ...]
  chosen: tuple[int, ...]
  held: tuple[int, ...]
  unlooped: tuple[Clip, ...]
  rounds: tuple[tuple[Found, ...], ...]
  sets: tuple[Held, ...]
  controls: tuple[Held, ...]
  candidates: tuple[Component, ...]
  by_clip: np.ndarray


def find(
  outcomes: Outcomes,
  clips: Sequence[Clip],
  settings: Settings,
  *,
  held_out: Sequence[str] = (),
  progress: Callable[[str], None] = print,
) -> Study:
  """The components behind the loops among `clips`.

  held_out: recordings whose unchanged windows are left to a later measure of word errors, and not used for damage.
  Raises ValueError for fewer than two clips that loop, or none that is unchanged and does not.
  """
  said = list(zip(clips, unedited(outcomes, clips)))
  loops = [(clip, outcome) for clip, outcome in said if outcome.loops]
  progress(f'{len(loops)} of {len(clips)} clips loop: {_counts([clip for clip, _ in loops])}')
  unlooped = [clip for clip, outcome in said if _measures_damage(clip, outcome, held_out)]
  if len(loops) < 2 or not unlooped:
    raise ValueError(f'loops: {len(loops)} clips that loop, {len(unlooped)} that do not; expected at least two and one')
  rng = np.random.default_rng(settings.seed)
  order = rng.permutation(len(loops))[: settings.most].tolist()
  chosen = sorted(order[::2])
  held = sorted(order[1::2])
  candidates = components(outcomes.recogniser.config)
  search_clips = [loops[i][0] for i in chosen]
  rounds = search.forward(
    candidates,
    _evaluator(outcomes, search_clips, unlooped, progress),
    size=settings.size,
    shortlist=settings.shortlist,
    damage=settings.damage,
  )
  best = [ranking[0].parts for ranking in rounds]
  random_sets = search.controls(best[-1], candidates, settings.controls, rng)
  sets, controls = _held_out(outcomes, [loops[i][0] for i in held], best, random_sets)
  return Study(
    clips=len(clips),
    loops=tuple(loops),
    chosen=tuple(chosen),
    held=tuple(held),
    unlooped=tuple(unlooped),
    rounds=tuple(map(tuple, rounds)),
    sets=sets,
    controls=controls,
    candidates=candidates,
    by_clip=ended(outcomes, search_clips, [(part,) for part in candidates]),
  )


def _measures_damage(clip: Clip, outcome: Outcome, held_out: Sequence[str]) -> bool:
  """Whether a clip is speech as it was recorded, of which the model says something that does not loop."""
  plain = clip.manipulation == 'unchanged' and clip.recording not in held_out
  return plain and not outcome.loops and outcome.tokens > 1


def _held_out(
  outcomes: Outcomes, clips: Sequence[Clip], best: Sequence[Parts], random_sets: Sequence[Parts]
) -> tuple[tuple[Held, ...], tuple[Held, ...]]:
  """(the sets found, the random ones) on the clips that took no part in the search."""
  table = [outcomes(clip, [*best, *random_sets]) for clip in clips]
  columns = [tuple(column) for column in zip(*table)]
  held = [Held(parts, column) for parts, column in zip([*best, *random_sets], columns)]
  return tuple(held[: len(best)]), tuple(held[len(best) :])


def _counts(clips: Sequence[Clip]) -> str:
  ways = sorted(clip.manipulation for clip in clips)
  return ', '.join(f'{way} {len(list(group))}' for way, group in itertools.groupby(ways))


def _evaluator(outcomes: Outcomes, loops: Sequence[Clip], unlooped: Sequence[Clip], progress: Callable[[str], None]):
  """The function sets → scores of the search."""
  base = [outcome.text for outcome in unedited(outcomes, unlooped)]

  def evaluate(sets: list[Parts]) -> list[Score]:
    ends = ended(outcomes, loops, sets).mean(1)
    errors = np.zeros(len(sets))
    length = 0
    for clip, text in zip(unlooped, base):
      counts = [word_errors(text, outcome.text) for outcome in outcomes(clip, sets)]
      errors += [edits for edits, _ in counts]
      length += counts[0][1]
    scores = [Score(float(end), float(error)) for end, error in zip(ends, errors / max(length, 1))]
    best = max(range(len(sets)), key=lambda i: scores[i].ended)
    progress(f'{len(sets)} sets; most ended: {"+".join(map(str, sets[best]))} {scores[best]}')
    return scores

  return evaluate
