"""From per-token values to one number, as a sum and what it is a sum over.

The quotient is taken once, after micro-batches and devices have been added up
(`core.training.steps.make_step`), so every average here is exactly that of the whole batch.

B rows, on any number of leading axes   T tokens
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

Aggregation = Literal['token', 'sequence', 'sequence_sum', 'constant']
AGGREGATIONS = get_args(Aggregation)


def aggregate(
  values: jax.Array, mask: jax.Array, aggregation: Aggregation, *, length: int | None = None
) -> tuple[jax.Array, jax.Array]:
  """(sum, weight) of per-token `values` [B, T] over `mask` bool [B, T]; rows without tokens count nowhere.

  'token'         Σ m·v over Σ m: every token weighs the same (DAPO, arXiv 2503.14476 eq. 8)
  'sequence'      Σ of rows' token means over the rows: every row weighs the same (GRPO, arXiv 2402.03300 eq. 3)
  'sequence_sum'  Σ m·v over the rows
  'constant'      Σ m·v / `length` over the rows: no bias by length (Dr. GRPO, arXiv 2503.20783 §3.2)
  """
  values = jnp.where(mask, values, 0.0)
  if aggregation == 'token':
    return values.sum(), mask.sum().astype(values.dtype)
  tokens = mask.sum(-1)
  rows = (tokens > 0).sum().astype(values.dtype)
  if aggregation == 'sequence':
    return jnp.sum(values.sum(-1) / jnp.maximum(tokens, 1)), rows
  return values.sum() / (length if aggregation == 'constant' else 1), rows
