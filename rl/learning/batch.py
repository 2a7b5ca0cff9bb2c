"""What a loss sees, whatever the policy, and how groups of trajectories become it.

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
from rl.policy import Layout, Policy, Slots, layouts
from rl.rewards import without_cut
from rl.rollout.collect import Collected
from rl.rollout.groups import Group


@struct.dataclass
class Batch:
  """An update's batch.

  inputs: of the policy's forward pass. mask: bool […], tokens that the loss is a mean over. sampled: float32 […],
  log-probabilities as the engine sampled. old_logp: float32 […], under the weights that sampled; not looked at where
  `fresh`, bool [U]: there the update starts from those weights, and the ratio is exactly 1. advantages: float32
  [U, G, 1 or N] or [U, 1 or T]. ref_logp: float32 […] under the reference policy, or None.
  """

  inputs: Any
  mask: Any
  sampled: Any
  old_logp: Any
  fresh: Any
  advantages: Any
  ref_logp: Any = None


@dataclasses.dataclass(frozen=True)
class Packed:
  """A rollout as host arrays, without advantages: this process's units, and as many as any process has.

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
      lifted = layouts.lift(penalty[: len(self.batch.fresh)], self.groups, self.layout, scores.mask.shape)
      scores = scores.replace(penalty=lifted)
    if not advantage.whole_batch:
      gain = np.asarray(advantage(scores))
    else:
      own = len(scores.valid)
      most = int(mesh.gather(np.array([own])).max())
      together = mesh.gather(jax.tree.map(lambda x: padding.pad(x, most), scores.replace(weights=None)))
      gain = mesh.process_local(np.asarray(advantage(together.replace(weights=scores.weights))))[:own]
    return layouts.place(gain, self.groups, self.layout, self.slots)


def scores_of(groups: Sequence[Group], shape: tuple[int, int, int], *, drop_cut: bool = False) -> Scores:
  """Groups as the arrays that an advantage takes; trajectories that a group lacks are not valid."""
  rewards = np.zeros((*shape[:2], groups[0].rewards.shape[-1]), np.float32)
  valid, mask = np.zeros(shape[:2], bool), np.zeros(shape, bool)
  lineage = np.full((3, *shape[:2]), -1, np.int32)
  for p, group in enumerate(groups):
    n = len(group.trajectories)
    rewards[p, :n], valid[p, :n] = group.rewards, group.valid
    for g, t in enumerate(group.trajectories):
      mask[p, g, : len(t.mask)] = t.mask
      lineage[:, p, g] = t.parent, t.segment, t.kind
    if drop_cut:
      mask[p, :n] = without_cut(mask[p, :n], [t.ended for t in group.trajectories])
  forked = (lineage[0] >= 0).any()
  return Scores(rewards, groups[0].weights, valid, mask, lineage=Lineage(*lineage) if forked else None)


def pack(
  policy: Policy,
  collected: Collected,
  layout: Layout,
  *,
  fresh: bool = True,
  given: Slots | None = None,
  drop_cut: bool = False,
) -> Packed:
  """A rollout as arrays of shapes that all processes agree on. given: sizes in place of buckets, where not 0.

  fresh: as in `Batch`. drop_cut: responses that were cut at a limit of length leave the loss. A process without groups
  gets a unit whose mask is empty.
  """
  groups = collected.groups or [collected.spare]
  trajectories = [group.trajectories for group in groups]
  slots = agreed(policy.slots(trajectories, layout).bucketed())
  if given is not None:
    slots = Slots(*(fixed or size for fixed, size in zip(given, slots)))
  longest = max(len(t.tokens) for group in trajectories for t in group)
  shape = len(groups), slots.samples, slots.response if layout == 'shared' else _most(longest)
  scores = scores_of(groups, shape, drop_cut=drop_cut)
  if not collected.groups:
    scores = scores.replace(valid=np.zeros_like(scores.valid))
  put = lambda values: layouts.place(values, trajectories, layout, slots)
  logp = lambda t: np.where(t.mask, t.logp, 0)
  sampled = put(layouts.spread(trajectories, logp, samples=shape[1], length=shape[2], dtype=np.float32))
  inputs = policy.inputs(trajectories, layout, slots)
  batch = Batch(inputs, put(np.asarray(scores.counted)), sampled, sampled, np.full(len(sampled), fresh), None)
  return Packed(batch, scores, trajectories, layout, slots, _most(len(sampled)))


def agreed(slots: Slots) -> Slots:
  """The largest of all processes."""
  return Slots(*mesh.gather(np.array([slots], np.int32)).max(0).tolist())


def _most(n: int) -> int:
  return int(mesh.gather(np.array([n], np.int32)).max())


def spans(units: int, size: int, multiple: int) -> list[range]:
  """The units of each update, `size` or the next smaller bucket of them: size/2, size/4, … while `multiple` divides it.

  Buckets may reach past the last unit; `split` fills them up. Few sizes, so that few programs are compiled.
  """
  found = [range(first, first + size) for first in range(0, units, size)]
  rest = units - found[-1].start
  half = size
  while half % (2 * multiple) == 0 and half // 2 >= rest:
    half //= 2
  return [*found[:-1], range(found[-1].start, found[-1].start + half)]


def split(batch: Batch, updates: Sequence[range], place: mesh.Mesh) -> list[Batch]:
  """The global batches of several updates. Units that no process has are copies of others with an empty mask."""
  rows = math.ceil(updates[-1].stop / jax.process_count())
  if rows > len(batch.fresh):
    mask = padding.pad(batch.mask, rows)
    batch = jax.tree.map(lambda x: padding.repeat_last(x, rows), batch).replace(mask=mask)
  return [mesh.interleave(batch, span, place) for span in updates]
