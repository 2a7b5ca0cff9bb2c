"""GRPO-RoC: resampling on correct (rStar2-Agent, arXiv 2508.20722, §3.2.2).

More rollouts are sampled than are trained on. Right ones are kept if they have few tool errors and a clean form, wrong
ones at random. This changes the training data, never the rewards.

P right and Q wrong rollouts of a group of N = P + Q, of which n are kept
"""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np

from agents.rollout import penalties as scores
from agents.rollout.protocol import ANSWER
from agents.rollout.trajectory import Trace

Mode = Literal['sorted', 'paper', 'reference', 'off']
EPSILON = 0.1  # ε of the weight 1/(p_total + ε); the paper's weight is undefined for a penalty of zero


def counts(right: int, wrong: int, keep: int, *, at_least: int = 2, reference: bool = False) -> tuple[int, int]:
  """How many right and wrong rollouts of a group to keep: in proportion, but `at_least` of each kind that occurs.

  The share of the right ones is rounded half to even as in the released code; the wrong ones get the remainder.
  reference: round both, as the released code does. Raises ValueError if the counts then do not sum to `keep`.
  """
  n = right + wrong
  if n <= keep:
    if n == keep:
      return (right, wrong)
    return (0, 0)
  kept_right = round(Fraction(right * keep, n))
  kept_wrong = round(Fraction(wrong * keep, n)) if reference else keep - kept_right
  if kept_wrong < at_least and kept_right < at_least:
    return right, wrong
  least_wrong = min(at_least, wrong)
  least_right = min(at_least, right)
  if kept_wrong <= least_wrong:
    kept_wrong = least_wrong
    kept_right = keep - kept_wrong
  if kept_right <= least_right:
    kept_right = least_right
    kept_wrong = keep - kept_right
  if kept_right + kept_wrong != keep:
    raise ValueError(f'{right} right and {wrong} wrong: rounding keeps {kept_right} and {kept_wrong}, expected {keep}')
  return kept_right, kept_wrong


def select(
  right: Sequence[bool], penalties: Sequence[float], keep: int, *, seed: Sequence[int], mode: Mode = 'sorted'
) -> np.ndarray:
  """Indices of the rollouts to keep of one group, in ascending order.

  'sorted'     `counts`; the right ones by ascending penalty, ties at random; the wrong ones at random
  'paper'      half of the wrong ones, rounded down, at random; right ones drawn with weight 1/(p_total + ε)
  'reference'  `counts(reference=True)`; the right ones by ascending penalty, ties and the wrong ones by arrival, as in
               the released code, whose penalties `resample` takes then
  'off'        all
  seed: numbers that identify the group, so that the choice depends on nothing else.
  """
  right = np.asarray(right, bool)
  if mode == 'off':
    return np.arange(len(right))
  good = np.flatnonzero(right)
  bad = np.flatnonzero(~right)
  cost = np.asarray(penalties, float)[good]
  rng = np.random.default_rng(list(seed))
  if mode == 'paper':
    chosen = _weighted(good, bad, cost, keep, rng)
  elif mode == 'reference':
    n_good, n_bad = counts(len(good), len(bad), keep, reference=True)
    order = good[np.argsort(cost, kind='stable')]
    chosen = [order[:n_good], bad[:n_bad]]
  else:
    n_good, n_bad = counts(len(good), len(bad), keep)
    ties = rng.random(len(right))
    order = good[np.lexsort((ties[good], cost))]
    chosen = [order[:n_good], rng.permutation(bad)[:n_bad]]
  return np.sort(np.concatenate(chosen))


def _weighted(
  good: np.ndarray, bad: np.ndarray, cost: np.ndarray, keep: int, rng: np.random.Generator
) -> list[np.ndarray]:
  """(right rollouts drawn by weight, wrong ones drawn evenly) of mode 'paper'; cost: penalties of the right ones."""
  reserved = min(len(bad) // 2, keep)
  n_good = min(keep - reserved, len(good))
  drawn = good[:0]
  if n_good:
    weights = 1 / (cost + EPSILON)
    drawn = rng.choice(good, n_good, replace=False, p=weights / weights.sum())
  n_bad = keep - n_good
  return [drawn, rng.permutation(bad)[:n_bad]]


@dataclasses.dataclass(frozen=True)
class Chosen:
  """The rollouts to train on: the places to keep in each group, and metrics as (total, divisor)."""

  kept: list[list[int]]
  metrics: dict[str, tuple[float, float]]


def resample(
  groups: Sequence[Sequence[Trace]],
  rewards: np.ndarray,
  keep: int,
  *,
  seed: int,
  step: int,
  places: Sequence[int],
  mode: Mode = 'sorted',
) -> Chosen:
  """Drops groups whose rewards are all equal, then selects within each of the others; rewards: 0 or 1, float [B, N].

  places: the numbers of the groups among those of all processes, which make the choice independent of the number of
  processes.
  """
  right = rewards > 0.5
  of_errors, of_form = scores.RELEASED if mode == 'reference' else scores.PAPER
  errors = np.array([[of_errors(trace) for trace in group] for group in groups])
  form = np.array([[of_form(trace) for trace in group] for group in groups])
  kept = [[] for _ in groups]
  is_kept = np.zeros(right.shape, bool)
  for g in np.flatnonzero(right.any(-1) & ~right.all(-1)):
    chosen = select(right[g], errors[g] + form[g], keep, seed=(seed, step, places[g]), mode=mode)
    kept[g] = chosen.tolist()
    is_kept[g, chosen] = True
  mixed = is_kept.any(-1, keepdims=True)
  turns = [turn for group in groups for trace in group for turn in trace.turns]
  answers = sum(turn.text.count(ANSWER) for turn in turns)
  metrics = {'roc_groups': (int(mixed.sum()), len(groups)), 'answers': (answers, right.size)}
  for when, counted in (('before', mixed & right), ('after', is_kept & right)):
    metrics[f'roc_errors_{when}'] = (errors[counted].sum(), counted.sum())
    metrics[f'roc_form_{when}'] = (form[counted].sum(), counted.sum())
  return Chosen(kept=kept, metrics=metrics)
