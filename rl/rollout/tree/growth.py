"""One query's tree as a state machine on the host: what is sampled next, given what was sampled."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rl.rollout.tree.path import Leaf, Path, Reason, stop_reason
from rl.rollout.tree.settings import Branching


class Segment(NamedTuple):
  """What continues a path. ended: with the policy's end token, which is its last."""

  tokens: np.ndarray
  logp: np.ndarray
  text: str
  ended: bool


class Growth:
  """Grows exactly `width` leaves.

  longest: tokens of a response. random: of this query alone. `active` are the paths to continue by one segment each;
  `advance` takes the segments in their order and replaces them. Public state: leaves, requests (segments asked for),
  fallbacks (rounds of opening leaves again).
  """

  def __init__(self, options: Branching, *, width: int, longest: int, random: np.random.Generator):
    self._options = options
    self._width = width
    self._longest = longest
    self._random = random
    self._levels = options.levels(longest)
    self._step = 0
    self.leaves: list[Leaf] = []
    self.requests = self.fallbacks = 0
    first = int(random.integers(options.first_low, options.first_high + 1))
    self.active = [Path.empty()] * min(first, width)

  def limit(self, path: Path) -> int:
    """Tokens of the next segment of a path, at most."""
    return min(self._options.segment, self._longest - len(path.tokens))

  @property
  def step(self) -> int:
    """The number of the present round of segments."""
    return self._step

  def advance(self, segments: Sequence[Segment]) -> None:
    """Extends the active paths by a segment each and decides what is active next; nothing once all leaves are made."""
    survivors = []
    before = len(self.leaves)
    for slot, (path, segment) in enumerate(zip(self.active, segments, strict=True)):
      path = path.extended(segment.tokens, segment.logp, (self._step, slot))
      limits = {'levels': self._levels, 'longest': self._longest}
      reason = stop_reason(segment.text, path, ended=segment.ended, options=self._options, **limits)
      if reason is None:
        survivors.append(path)
      else:
        self.leaves.append(Leaf(path, reason))
    self.requests += len(segments)
    self._step += 1
    missing = self._width - len(self.leaves)
    if survivors:
      finished = len(self.leaves) - before
      branched = self._options.branch * (finished + len(survivors))
      total = max(min(missing, branched), len(survivors))
      counts = shares(survivors, total, self._options)
      self.active = [path for path, count in zip(survivors, counts) for _ in range(count)]
    else:
      self.active = self._fallback(missing) if missing else []

  def _fallback(self, missing: int) -> list[Path]:
    """Leaves cut back to whole segments, `branch` copies of each, until `missing` paths are active."""
    self.fallbacks += 1
    opened = []
    leaves = candidates(self.leaves, self._options, self._random)
    for leaf in leaves or [Leaf(Path.empty(), Reason.END)]:
      copies = min(self._options.branch, missing - len(opened))
      path = reopened(leaf.path, self._options, self._random)
      opened += [path] * copies
      if len(opened) == missing or self._options.reopen == 'start':
        break
    return opened


def shares(survivors: Sequence[Path], total: int, options: Branching) -> list[int]:
  """How often each path is continued, `total` in all and every one at least once."""
  count = len(survivors)
  if options.share == 'even':
    least, extra = divmod(total, count)
    return [least + (i < extra) for i in range(count)]
  scores = np.array([_score(path, options) for path in survivors])
  sign = 1 if options.share == 'high' else -1
  power = sign * scores / options.temperature
  extra = total - count
  wanted = _softmax(power) * extra
  whole = np.floor(wanted).astype(int)
  # Largest remainders first; a stable sort gives ties to the earlier path.
  order = np.argsort(whole - wanted, kind='stable')
  missing = extra - whole.sum()
  whole[order[:missing]] += 1
  return (whole + 1).tolist()


def _softmax(power: np.ndarray) -> np.ndarray:
  weights = np.exp(power - power.max())
  return weights / weights.sum()


def _score(path: Path, options: Branching) -> float:
  """The log-probability of a path that `share` compares."""
  if options.score == 'sum':
    return float(path.logp.sum())
  logp = path.logp[-options.segment :] if options.score == 'segment' else path.logp
  return float(logp.mean())


def candidates(leaves: Sequence[Leaf], options: Branching, random: np.random.Generator) -> list[Leaf]:
  """The leaves that may be opened again, in the order in which they are."""
  if options.fallback == 'ended':
    leaves = [leaf for leaf in leaves if leaf.reason in (Reason.ANSWER, Reason.END)]
  shuffled = [leaves[i] for i in random.permutation(len(leaves))]
  if options.fallback == 'best':
    return sorted(shuffled, key=lambda leaf: -leaf.reason)
  if options.fallback == 'long':
    # Adding Gumbel noise to log-weights draws without replacement in proportion to the weights.
    noise = random.gumbel(size=len(shuffled))
    log_weights = [np.log(len(leaf.path.tokens)) for leaf in shuffled]
    order = np.argsort(-(log_weights + noise), kind='stable')
    return [shuffled[i] for i in order]
  return shuffled


def reopened(path: Path, options: Branching, random: np.random.Generator) -> Path:
  """A path cut back to the whole segments from which it is continued; at least its last segment goes."""
  segments = -(-len(path.tokens) // options.segment)
  if options.reopen == 'start' or segments <= 1:
    return path.cut(0, options.segment)
  if options.reopen == 'random':
    dropped = int(random.integers(1, segments + 1))
    return path.cut(segments - dropped, options.segment)
  starts = range(0, len(path.tokens), options.segment)
  parts = [path.logp[start : start + options.segment].mean() for start in starts]
  sign = 1 if options.reopen == 'high' else -1
  chances = _softmax(sign * np.array(parts))
  kept = int(random.choice(segments, p=chances))
  return path.cut(kept, options.segment)
