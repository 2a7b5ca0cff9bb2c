"""GRPO-RoC: resampling on correct (rStar2-Agent, arXiv 2508.20722, §3.2.2).

More rollouts are sampled than are trained on. Among the right ones those with few tool errors and a clean form are
kept, among the wrong ones any: what is trained on changes, rewards never do.

P right and Q wrong rollouts of a group of N = P + Q, of which n are kept
"""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np

from agents.rollout.protocol import ANSWER, END_ANSWER
from agents.rollout.trajectory import Trace

Mode = Literal['sorted', 'paper', 'reference', 'off']
EPSILON = 0.1  # of the weight 1/(p_total + ε): the paper leaves a penalty of zero undefined


def error_penalty(trace: Trace) -> float:
  """p_err: the share of failed calls among those attempted; 0.5 without any."""
  responses = trace.responses
  return sum(r.failed for r in responses) / len(responses) if responses else 0.5


def form_penalty(trace: Trace) -> float:
  """p_format: min(1, (answers − 1)/turns) for balanced answer tags in what the model said, else 1."""
  text = '\n'.join(turn.text for turn in trace.turns)
  opened, closed, pairs = text.count(ANSWER), text.count(END_ANSWER), _pairs(text)
  if not opened or not opened == closed == pairs:
    return 1.0
  return min(1.0, (opened - 1) / len(trace.turns))


def _pairs(text: str) -> int:
  """Opened tags that are closed after them, not overlapping."""
  count = at = 0
  while (start := text.find(ANSWER, at)) >= 0 and (end := text.find(END_ANSWER, start)) >= 0:
    count, at = count + 1, end + len(END_ANSWER)
  return count


def penalty(trace: Trace) -> float:
  """p_total = p_err + p_format, from 0 (best) to 2."""
  return error_penalty(trace) + form_penalty(trace)


def counts(right: int, wrong: int, keep: int, *, at_least: int = 2, reference: bool = False) -> tuple[int, int]:
  """How many right and wrong rollouts of a group are kept: in proportion, but `at_least` of each kind that is there.

  The shares are rounded half to even as in the released code; the wrong ones get what the right ones leave.
  reference: round both, as the released code does. Raises ValueError where its counts then miss `keep`.
  """
  n = right + wrong
  if n <= keep:
    return (right, wrong) if n == keep else (0, 0)
  kept_right = round(Fraction(right * keep, n))
  kept_wrong = round(Fraction(wrong * keep, n)) if reference else keep - kept_right
  if kept_wrong < at_least and kept_right < at_least:
    return right, wrong
  if kept_wrong <= min(at_least, wrong):
    kept_wrong = min(at_least, wrong)
    kept_right = keep - kept_wrong
  if kept_right <= min(at_least, right):
    kept_right = min(at_least, right)
    kept_wrong = keep - kept_right
  if kept_right + kept_wrong != keep:
    raise ValueError(f'{right} right and {wrong} wrong: rounding keeps {kept_right} and {kept_wrong}, expected {keep}')
  return kept_right, kept_wrong


def select(
  right: Sequence[bool], penalties: Sequence[float], keep: int, *, seed: Sequence[int], mode: Mode = 'sorted'
) -> np.ndarray:
  """Indices of the rollouts of one group that are kept, in ascending order.

  'sorted'     `counts`; the right ones by ascending penalty, ties at random; the wrong ones at random
  'paper'      half of the wrong ones, rounded down, at random; right ones drawn with weight 1/(p_total + ε)
  'reference'  `counts(reference=True)`; the right ones by ascending penalty, ties and the wrong ones by arrival
  'off'        all
  seed: numbers that name the group, so that the choice depends on nothing else.
  """
  right = np.asarray(right, bool)
  good, bad = np.flatnonzero(right), np.flatnonzero(~right)
  if mode == 'off':
    return np.arange(len(right))
  draw = np.random.default_rng(list(seed))
  if mode == 'paper':
    n_bad = min(len(bad) // 2, keep)
    n_good = min(keep - n_bad, len(good))
    weights = 1 / (np.asarray(penalties, float)[good] + EPSILON)
    chosen = draw.choice(good, n_good, replace=False, p=weights / weights.sum()) if n_good else good[:0]
    n_bad = keep - n_good
    return np.sort(np.concatenate([chosen, draw.permutation(bad)[:n_bad]]))
  n_good, n_bad = counts(len(good), len(bad), keep, reference=mode == 'reference')
  ties = np.zeros(len(right)) if mode == 'reference' else draw.random(len(right))
  order = good[np.lexsort((ties[good], np.asarray(penalties, float)[good]))]
  bad = bad if mode == 'reference' else draw.permutation(bad)
  return np.sort(np.concatenate([order[:n_good], bad[:n_bad]]))


@dataclasses.dataclass(frozen=True)
class Chosen:
  """The rollouts trained on: of each group the places that are kept, and what there is to report: (total, divisor)."""

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
  """Leaves out groups whose rewards are all equal, then selects within each: rewards 0 or 1, float [B, N].

  places: of the groups among those of all processes, so that the choice does not depend on theirs.
  """
  right = rewards > 0.5
  penalties = np.array([[[error_penalty(t), form_penalty(t)] for t in group] for group in groups])
  kept = [[] for _ in groups]
  for g in np.flatnonzero(right.any(-1) & ~right.all(-1)):
    chosen = select(right[g], penalties[g].sum(-1), keep, seed=(seed, step, places[g]), mode=mode)
    kept[g] = chosen.tolist()
  stays = np.zeros(right.shape, bool)
  for g, chosen in enumerate(kept):
    stays[g, chosen] = True
  mixed = stays.any(-1, keepdims=True)
  answers = sum(turn.text.count(ANSWER) for group in groups for t in group for turn in t.turns)
  metrics = {'roc_groups': (int(mixed.sum()), len(groups)), 'answers': (answers, right.size)}
  for name, column in (('errors', 0), ('form', 1)):
    for when, chosen in (('before', mixed & right), ('after', stays & right)):
      metrics[f'roc_{name}_{when}'] = (penalties[..., column][chosen].sum(), chosen.sum())
  return Chosen(kept, metrics)
