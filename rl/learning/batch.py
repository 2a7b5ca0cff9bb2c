"""What a loss sees of any policy, and how groups of trajectories become it.

U units, the leading axis: groups ('shared' layout) or trajectories ('rows')   … [U, G, N] or [U, T], tokens
P groups   G trajectories of a group   N tokens of a response   R reward components
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import struct

from core import mesh, padding
from rl.advantages import Advantage, Lineage, Scores
from rl.policy import ANY_SLOTS, Layout, Policy, Slots, Trajectory, layouts
from rl.rewards import without_cut
from rl.rollout.collect import Collected
from rl.rollout.groups import Group


@struct.dataclass
class Batch:
  """An update's batch.

  inputs: of the policy's forward pass. mask: bool […], tokens that the loss is a mean over. sampled: float32 […],
  log-probabilities as the engine sampled. old_logp: float32 […], under the weights that sampled; not looked at where
  `fresh`, bool [U]: there the update starts from those weights, and the ratio is exactly 1. advantages: float32
  [U, G, 1 or N] or [U, 1 or T]. ref_logp: float32 […] under the reference policy, or None; of a policy with an exact
  divergence, what its `reference` returned. weight: float32 […], factors of the loss of each token, or None for 1.
  kind: int32 [U, G, 1] or [U, 1], as in `rl.advantages.Lineage`, or None where all trajectories are of one kind.
  """

  inputs: Any
  mask: Any
  sampled: Any
  old_logp: Any
  fresh: Any
  advantages: Any
  ref_logp: Any = None
  kind: Any = None
  weight: Any = None


@dataclasses.dataclass(frozen=True)
class Packed:
  """A rollout as host arrays, without advantages: this process's units, padded to the most that any process has.

  batch: leaves [U, …]. scores: what an advantage is given, of [P, G, …].
  """

  batch: Batch
  scores: Scores
  groups: Sequence[Sequence[Any]]
  layout: Layout
  slots: Slots
  units: int

  def advantages(self, advantage: Advantage, penalty: np.ndarray | None = None) -> np.ndarray:
    """Float32 [U, …]: how good each trajectory, or each of its tokens, was. penalty: float32 […], see `Scores`."""
    scores = self.scores
    if penalty is not None:
      own = penalty[: len(self.batch.fresh)]
      lifted = layouts.lift(own, self.groups, self.layout, scores.mask.shape)
      scores = scores.replace(penalty=lifted)
    gain = _over_all_processes(advantage, scores) if advantage.whole_batch else np.asarray(advantage(scores))
    return layouts.place(gain, self.groups, self.layout, self.slots)


def _over_all_processes(advantage: Advantage, scores: Scores) -> np.ndarray:
  """This process's advantages by a rule that normalises over the groups of all processes.

  The groups are in the order of a single process, so that their sums round as there.
  """
  own = len(scores.valid)
  most = _most(own)
  padded = jax.tree.map(lambda x: padding.pad(x, most), scores.replace(weights=None))
  gathered = jax.tree.map(mesh.alternating, mesh.gather(padded))
  gain = np.asarray(advantage(gathered.replace(weights=scores.weights)))
  strided = gain[jax.process_index() :: jax.process_count()]
  return strided[:own]


def scores_of(groups: Sequence[Group], shape: tuple[int, int, int], *, drop_cut: bool = False) -> Scores:
  """Groups as the arrays that an advantage takes; trajectories that a group lacks are not valid."""
  _, samples, length = shape
  trajectories = [group.trajectories for group in groups]
  mask = layouts.spread(trajectories, lambda t: t.mask, samples=samples, length=length, dtype=bool)
  if drop_cut:
    ended = padding.batch([[t.ended for t in group] for group in trajectories], dtype=bool, length=samples)
    mask = without_cut(mask, ended)
  return Scores(
    rewards=padding.batch([group.rewards for group in groups], dtype=np.float32, length=samples),
    weights=groups[0].weights,
    valid=padding.batch([group.valid for group in groups], dtype=bool, length=samples),
    mask=mask,
    lineage=_lineage(trajectories, samples),
  )


def _lineage(groups: Sequence[Sequence[Trajectory]], samples: int) -> Lineage | None:
  """Parent, segment and kind of each trajectory; None if all are independent samples of one kind."""
  if all(t.parent < 0 and t.kind == 0 for group in groups for t in group):
    return None
  rows = [[(t.parent, t.segment, t.kind) for t in group] for group in groups]
  columns = padding.batch(rows, dtype=np.int32, length=samples, fill=-1)
  return Lineage(*np.moveaxis(columns, -1, 0))


def pack(
  policy: Policy,
  collected: Collected,
  layout: Layout,
  *,
  fresh: bool = True,
  given: Slots | None = None,
  drop_cut: bool = False,
  kinds: bool = False,
) -> Packed:
  """A rollout as arrays of shapes that all processes agree on. given: sizes in place of buckets, where not 0.

  fresh: as in `Batch`. drop_cut: responses that were cut at a limit of length leave the loss. kinds: whether the batch
  says of which kind each trajectory is. A process without groups gets a unit whose mask is empty.
  """
  groups = collected.groups or [collected.spare]
  trajectories = [group.trajectories for group in groups]
  slots = slots_of(policy, trajectories, layout, given)
  length = slots.response
  if layout == 'rows':
    length = _most(max(len(t.tokens) for group in trajectories for t in group))
  scores = scores_of(groups, (len(groups), slots.samples, length), drop_cut=drop_cut)
  if not collected.groups:
    scores = scores.replace(valid=np.zeros_like(scores.valid))
  logp = lambda t: np.where(t.mask, t.logp, 0)
  sampled = layouts.spread(trajectories, logp, samples=slots.samples, length=length, dtype=np.float32)
  sampled = layouts.place(sampled, trajectories, layout, slots)
  batch = Batch(
    inputs=policy.inputs(trajectories, layout, slots),
    mask=layouts.place(np.asarray(scores.counted), trajectories, layout, slots),
    sampled=sampled,
    old_logp=sampled,
    fresh=np.full(len(sampled), fresh),
    advantages=None,
    kind=_kinds(trajectories, layout, slots) if kinds else None,
    weight=_weights(trajectories, layout, slots, length),
  )
  return Packed(batch, scores, trajectories, layout, slots, _most(len(sampled)))


def _kinds(groups: Sequence[Sequence[Trajectory]], layout: Layout, slots: Slots) -> np.ndarray:
  """Int32 [U, G, 1] or [U, 1]: the kind of each trajectory."""
  rows = [[t.kind for t in group] for group in groups]
  kinds = padding.batch(rows, dtype=np.int32, length=slots.samples)
  return layouts.place(kinds[..., None], groups, layout, slots)


def _weights(groups: Sequence[Sequence[Trajectory]], layout: Layout, slots: Slots, length: int) -> np.ndarray | None:
  """The trajectories' weights; None where none has any."""
  if all(t.weight is None for group in groups for t in group):
    return None
  weight = lambda t: np.ones(len(t.tokens)) if t.weight is None else t.weight
  spread = layouts.spread(groups, weight, samples=slots.samples, length=length, dtype=np.float32)
  return layouts.place(spread, groups, layout, slots)


def slots_of(
  policy: Policy, groups: Sequence[Sequence[Trajectory]], layout: Layout, given: Slots | None = None
) -> Slots:
  """The buckets that the groups of all processes fit; given: sizes in place of them, where not 0."""
  own = np.array([policy.slots(groups, layout).bucketed()], np.int32)
  largest = mesh.gather(own).max(0).tolist()
  return Slots(*(fixed or size for fixed, size in zip(given or ANY_SLOTS, largest)))


def _most(n: int) -> int:
  """The largest n of all processes."""
  every = mesh.gather(np.array([n], np.int32))
  return int(every.max())


def spans(units: int, size: int, multiple: int) -> list[range]:
  """The units of each update, `size` or the next smaller bucket of them: size/2, size/4, … while `multiple` divides it.

  Buckets may reach past the last unit; `split` fills them up. Few sizes, so that few programs are compiled.
  """
  starts = range(0, units, size)
  last = starts[-1]
  rest = units - last
  half = size
  while half % (2 * multiple) == 0 and half // 2 >= rest:
    half //= 2
  full = [range(start, start + size) for start in starts[:-1]]
  return [*full, range(last, last + half)]


def split(batch: Batch, updates: Sequence[range], place: mesh.Mesh) -> list[Batch]:
  """The global batches of several updates. Units that no process has are copies of others with an empty mask."""
  rows = math.ceil(updates[-1].stop / jax.process_count())
  if rows > len(batch.fresh):
    mask = padding.pad(batch.mask, rows)
    batch = jax.tree.map(lambda x: padding.repeat_last(x, rows), batch).replace(mask=mask)
  return [mesh.interleave(batch, span, place) for span in updates]
