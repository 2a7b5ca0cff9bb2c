"""Trajectories as rows of a training batch.

N rows   T tokens
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.experimental import multihost_utils

from agents.rollout.trajectory import Trajectory
from core import decoder
from core.padding import bucket


@struct.dataclass
class Rows:
  """Whole conversations, padded on the right."""

  tokens: Any  # int32 [N, T]
  mask: Any  # bool [N, T], the model's own
  length: Any  # int32 [N]
  logp: Any  # float32 [N, T], as sampled where `mask`, else 0
  advantage: Any  # float32 [N]


def gathered(x: np.ndarray) -> np.ndarray:
  """The arrays of all processes, [processes, …]."""
  return x[None] if jax.process_count() == 1 else multihost_utils.process_allgather(x)


def means(totals: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray]:
  """Metrics as float32, from each process's (total, divisor); 0 where there is nothing to divide by."""
  total, divisor = gathered(np.array(list(totals.values()), np.float64)).sum(0).T
  return dict(zip(totals, np.float32(total / np.where(divisor, divisor, 1))))


def pack(trajectories: Sequence[Trajectory], advantages: Sequence[float], *, rows: int, pad_id: int) -> Rows:
  """The trajectories in `rows` rows, the last ones empty if there are fewer, all as long as a bucket.

  Of several processes each packs its own, and all rows are as long as the longest of them needs.
  Raises ValueError when there are more.
  """
  if len(trajectories) > rows:
    raise ValueError(f'{len(trajectories)} trajectories for {rows} rows')
  longest = max((len(t.prompt) + len(t.ids) for t in trajectories), default=1)
  width = bucket(int(gathered(np.int32(longest)[None]).max()))
  out = Rows(
    np.full((rows, width), pad_id, np.int32),
    np.zeros((rows, width), bool),
    np.ones(rows, np.int32),
    np.zeros((rows, width), np.float32),
    np.zeros(rows, np.float32),
  )
  for row, (t, advantage) in enumerate(zip(trajectories, advantages, strict=True)):
    start, stop = len(t.prompt), len(t.prompt) + len(t.ids)
    out.tokens[row, :stop] = t.prompt + t.ids
    out.mask[row, start:stop], out.logp[row, start:stop] = t.mask, t.logp
    out.length[row], out.advantage[row] = stop, advantage
  return out


def log_probs(
  params: decoder.Params, config: decoder.Config, rows: Rows, *, temperature: float = 1.0, remat: str = 'none'
):
  """(log-probability, entropy) float32 [N, T − 1], at a temperature, of each token but the first given those before.

  remat: a policy of `core.remat`.
  """
  at = jnp.arange(rows.tokens.shape[1] - 1)
  positions = jnp.where(at < jnp.asarray(rows.length)[:, None], at, -1)
  out = decoder.forward(
    params, config, decoder.embed(params, jnp.asarray(rows.tokens)[:, :-1]), positions=positions, remat_policy=remat
  )
  return decoder.log_probs(params, config, out.hidden, jnp.asarray(rows.tokens)[:, 1:], temperature=temperature)
