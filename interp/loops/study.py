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
  """A set, for each held-out clip what is said without it, and its damage to the clips of the search."""

  parts: Parts
  outcomes: tuple[Outcome, ...]
  damage: float

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
  looping = [clip for clip, _ in loops]
  progress(f'{len(looping)} of {len(clips)} clips loop: {_counts(looping)}')
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
  counted = _held_out(outcomes, [loops[i][0] for i in held], unlooped, [*best, *random_sets])
  return Study(
    clips=len(clips),
    loops=tuple(loops),
    chosen=tuple(chosen),
    held=tuple(held),
    unlooped=tuple(unlooped),
    rounds=tuple(map(tuple, rounds)),
    sets=counted[: len(best)],
    controls=counted[len(best) :],
    candidates=candidates,
    by_clip=ended(outcomes, search_clips, [(part,) for part in candidates]),
  )


def _measures_damage(clip: Clip, outcome: Outcome, held_out: Sequence[str]) -> bool:
  """Whether a clip is speech as it was recorded, of which the model says something that does not loop."""
  plain = clip.manipulation == 'unchanged' and clip.recording not in held_out
  return plain and not outcome.loops and outcome.tokens > 1


def _held_out(
  outcomes: Outcomes, clips: Sequence[Clip], unlooped: Sequence[Clip], sets: Sequence[Parts]
) -> tuple[Held, ...]:
  """Each set on the clips that took no part in the search."""
  table = [outcomes(clip, sets) for clip in clips]
  damages = damage(outcomes, unlooped, sets)
  found = []
  for i, parts in enumerate(sets):
    said = tuple(row[i] for row in table)
    found.append(Held(parts=parts, outcomes=said, damage=float(damages[i])))
  return tuple(found)


def damage(outcomes: Outcomes, clips: Sequence[Clip], sets: Sequence[Parts]) -> np.ndarray:
  """float [sets]: edits that each set's absence makes in a word of what is said of clips."""
  errors = np.zeros(len(sets))
  length = 0
  for clip, whole in zip(clips, unedited(outcomes, clips)):
    counts = [word_errors(whole.text, one.text) for one in outcomes(clip, sets)]
    errors += [edits for edits, _ in counts]
    length += counts[0][1]
  return errors / max(length, 1)


def _counts(clips: Sequence[Clip]) -> str:
  ways = sorted(clip.manipulation for clip in clips)
  counts = {way: len(list(group)) for way, group in itertools.groupby(ways)}
  return ', '.join(f'{way} {count}' for way, count in counts.items())


def _evaluator(outcomes: Outcomes, loops: Sequence[Clip], unlooped: Sequence[Clip], progress: Callable[[str], None]):
  """The function sets → scores of the search."""

  def evaluate(sets: list[Parts]) -> list[Score]:
    ends = ended(outcomes, loops, sets).mean(1)
    damages = damage(outcomes, unlooped, sets)
    scores = [Score(float(end), float(harm)) for end, harm in zip(ends, damages)]
    best = int(ends.argmax())
    names = '+'.join(map(str, sets[best]))
    progress(f'{len(sets)} sets; most ended: {names} {scores[best]}')
    return scores

  return evaluate
