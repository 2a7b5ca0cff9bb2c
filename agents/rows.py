"""Trajectories as rows of a training batch.

N rows   T tokens
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct

from agents.trajectory import Trajectory
from core import decoder
from core.sample import bucket


@struct.dataclass
class Rows:
  """Whole conversations, padded on the right."""

  tokens: Any  # int32 [N, T]
  mask: Any  # bool [N, T], the model's own
  length: Any  # int32 [N]
  logp: Any  # float32 [N, T], as sampled where `mask`, else 0
  advantage: Any  # float32 [N]


def pack(trajectories: Sequence[Trajectory], advantages: Sequence[float], *, rows: int, pad_id: int) -> Rows:
  """The trajectories in `rows` rows, the last ones empty if there are fewer, all as long as a bucket.

  Raises ValueError when there are more.
  """
  if len(trajectories) > rows:
    raise ValueError(f'{len(trajectories)} trajectories for {rows} rows')
  width = bucket(max((len(t.prompt) + len(t.ids) for t in trajectories), default=1))
  out = Rows(np.full((rows, width), pad_id, np.int32), np.zeros((rows, width), bool), np.ones(rows, np.int32),
             np.zeros((rows, width), np.float32), np.zeros(rows, np.float32))
  for row, (t, advantage) in enumerate(zip(trajectories, advantages, strict=True)):
    start, stop = len(t.prompt), len(t.prompt) + len(t.ids)
    out.tokens[row, :stop] = t.prompt + t.ids
    out.mask[row, start:stop], out.logp[row, start:stop] = t.mask, t.logp
    out.length[row], out.advantage[row] = stop, advantage
  return out


def log_probs(params: decoder.Params, config: decoder.Config, rows: Rows, *, temperature: float = 1.0):
  """(log-probability, entropy) float32 [N, T − 1], at a temperature, of each token but the first given those before."""
  at = jnp.arange(rows.tokens.shape[1] - 1)
  positions = jnp.where(at < jnp.asarray(rows.length)[:, None], at, -1)
  out = decoder.forward(params, config, decoder.embed(params, jnp.asarray(rows.tokens)[:, :-1]), positions=positions)
  return decoder.log_probs(params, config, out.hidden / temperature, jnp.asarray(rows.tokens)[:, 1:])
