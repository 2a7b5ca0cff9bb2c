"""Attention of the leaves of a few trees: random pages, and peers, none of which knows what is shared."""

import dataclasses
from collections.abc import Callable
from typing import Any

from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Of trees of two levels. Flags of the programs that use it."""

  trees: int = field(2, 'prompts', low=1)
  leaves: int = field(8, 'rows that share each prompt', low=1)
  shared: int = field(1024, 'tokens of a prompt', low=0)
  own: int = field(192, 'tokens of each row alone', low=1)
  page_size: int = field(16, 'tokens of a page', low=1)


def tables(sizes: Sizes) -> list[list[int]]:
  """The pages of each row, in order: those of its prompt, then its own."""
  shared = sizes.shared // sizes.page_size
  own = sizes.own // sizes.page_size
  rows = []
  for tree in range(sizes.trees):
    first = tree * (shared + sizes.leaves * own)
    prompt = list(range(first, first + shared))
    for leaf in range(sizes.leaves):
      begin = first + shared + leaf * own
      rows.append([*prompt, *range(begin, begin + own)])
  return rows


@dataclasses.dataclass(frozen=True)
class Forest:
  """q [R, N, H], k [pages, K, H, S], v [pages, K, S, H], the plan, and int32 [R, T] the table of R rows of T pages."""

  q: Any
  k: Any
  v: Any
  plan: Any
  table: Any

  @property
  def bytes(self) -> int:
    """Of all pages, each once."""
    return self.k.nbytes + self.v.nbytes

  @property
  def ratio(self) -> float:
    """The sharing ratio: pages that the rows read over those there are."""
    return self.table.size / self.k.shape[0]

  @property
  def flops(self) -> int:
    """Floating-point operations of both products."""
    _, query_heads, head_size = self.q.shape
    tokens = self.table.size * self.k.shape[-1]
    return 4 * query_heads * head_size * tokens


def draw(shape: Any, sizes: Sizes, dtype: Any) -> Forest:
  """A random forest of a `kernels.shapes.Shape`; every row reads whole pages, without window and sinks."""
  import jax
  import jax.numpy as jnp

  rows = tables(sizes)
  pages = max(row[-1] for row in rows) + 1
  of_q, of_k, of_v = jax.random.split(jax.random.key(0), 3)
  size = sizes.page_size
  return Forest(
    q=jax.random.normal(of_q, (len(rows), shape.query_heads, shape.head_size), dtype),
    k=jax.random.normal(of_k, (pages, shape.key_heads, shape.head_size, size), dtype),
    v=jax.random.normal(of_v, (pages, shape.key_heads, size, shape.head_size), dtype),
    plan=planned(rows, size),
    table=jnp.asarray(rows, jnp.int32),
  )


def planned(rows: list[list[int]], page_size: int) -> Any:
  """The plan of rows that read all their pages, on the device."""
  import jax
  import jax.numpy as jnp

  from kernels.tree.plan import plan

  lengths = [len(row) * page_size for row in rows]
  return jax.tree.map(jnp.asarray, plan(rows, lengths, page_size=page_size))


def unshared(forest: Forest) -> Forest:
  """The same rows with copies of all that they share: what they cost without sharing."""
  import numpy as np

  pages = forest.table.reshape(-1)
  table = np.arange(pages.size).reshape(forest.table.shape)
  alone = planned(table.tolist(), forest.k.shape[-1])
  return dataclasses.replace(forest, k=forest.k[pages], v=forest.v[pages], plan=alone, table=table)


def gathered(q, k_pages, v_pages, table):
  """Attention of rows [R, N, H] one by one, each of which gathers its pages; pages are not transposed."""
  import jax
  import jax.numpy as jnp

  _, query_heads, size = q.shape
  heads = k_pages.shape[1]

  def row(given):
    q, pages = given
    grouped = q.reshape(heads, query_heads // heads, size) / size**0.5
    over = jnp.broadcast_to(grouped, (pages.shape[0], *grouped.shape))  # a batch of products: no page is transposed
    scores = jnp.einsum('tkgh,tkhs->tkgs', over, k_pages[pages])
    top = scores.max((0, 3), keepdims=True)
    weights = jnp.exp(scores - top)
    out = jnp.einsum('tkgs,tksh->tkgh', weights, v_pages[pages]).sum(0)
    return (out / weights.sum((0, 3))[..., None]).reshape(q.shape)

  return jax.lax.map(row, (q, table))


def ragged(forest: Forest) -> Callable[[], Any]:
  """jax's ragged paged attention in its reference form, the only one that a CPU runs; compiled for these rows."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ref_ragged_paged_attention

  rows, _, size = forest.q.shape
  keys = jnp.swapaxes(forest.k, 2, 3)
  both = jnp.stack([keys, forest.v], axis=2)  # [pages, K, 2, S, H]
  pages, *_, page_size = forest.k.shape
  by_token = jnp.moveaxis(both, 3, 1)
  pool = by_token.reshape(pages, page_size, -1, size)
  lengths = np.full(rows, forest.table.shape[1] * forest.k.shape[-1], np.int32)
  ends = np.arange(rows + 1, dtype=np.int32)
  table = np.asarray(forest.table)
  count = np.array([rows], np.int32)

  def call(q, pool):
    return ref_ragged_paged_attention(q, pool, lengths, table, ends, count, sm_scale=size**-0.5)

  compiled = jax.jit(call)
  return lambda: compiled(forest.q, pool)


def torch_gathered(forest: Forest) -> Callable[[], Any]:
  """The same in torch: a gather of all rows' pages, then its scaled dot product attention."""
  import numpy as np
  import torch

  torch.set_num_threads(1)
  q, k, v = (torch.from_numpy(np.array(x, np.float32)) for x in (forest.q, forest.k, forest.v))
  table = torch.from_numpy(np.array(forest.table, np.int64))

  def run():
    with torch.inference_mode():
      keys = k[table].permute(0, 2, 1, 4, 3).flatten(2, 3)  # [R, K, T·S, H]
      values = v[table].transpose(1, 2).flatten(2, 3)
      attend = torch.nn.functional.scaled_dot_product_attention
      return attend(q[:, :, None], keys, values, enable_gqa=True)[:, :, 0].numpy()

  return run
