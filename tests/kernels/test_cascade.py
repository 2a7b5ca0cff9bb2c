"""One prefix that all rows share, in the sizes of FlashInfer's tests of its cascade, and a cascade of three levels.

The definition is a cascade's: the softmax of each level on its own, then a merge of their sums by log-sum-exp.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import tree_attention
from kernels.tree.plan import plan

PAGE = 16


def level(q, k, v):
  """(out [N, H], log-sum-exp [N]) of one row over tokens [T, N, H], in float64."""
  scores = np.einsum('nh,tnh->nt', q, k) / np.sqrt(q.shape[-1])
  top = scores.max(1, keepdims=True)
  weights = np.exp(scores - top)
  total = weights.sum(1)
  return np.einsum('nt,tnh->nh', weights, v) / total[:, None], top[:, 0] + np.log(total)


def merged(levels):
  """(out [N, H], log-sum-exp [N]) of the levels together."""
  out, lse = levels[0]
  for other, at in levels[1:]:
    joint = np.logaddexp(lse, at)
    out = np.exp(lse - joint)[:, None] * out + np.exp(at - joint)[:, None] * other
    lse = joint
  return out, lse


class Cascade:
  """Nodes of given lengths, each in pages of its own; a row reads a path of them."""

  def __init__(self, lengths, heads: int, size: int):
    counts = [-(-length // PAGE) for length in lengths]
    ends = np.cumsum(counts)
    self.lengths = lengths
    self.pages = [list(range(end - count, end)) for end, count in zip(ends, counts)]
    self.rng = np.random.default_rng(0)
    self.k, self.v = (self.rng.standard_normal((ends[-1], heads, PAGE, size)).astype(np.float32) for _ in range(2))

  def tokens(self, pool, node: int):
    """float64 [T, N, H] of a node."""
    joined = np.concatenate([pool[page] for page in self.pages[node]], axis=1)
    return np.swapaxes(joined, 0, 1)[: self.lengths[node]].astype(np.float64)

  def check(self, paths, implementation: str) -> None:
    """Compares rows that read these paths; all nodes but the last of a path fill their pages."""
    q = self.rng.standard_normal((len(paths), *self.k.shape[1::2])).astype(np.float32)
    tables = [[page for node in path for page in self.pages[node]] for path in paths]
    lengths = [sum(self.lengths[node] for node in path) for path in paths]
    made = plan(tables, lengths, page_size=PAGE)
    call = jax.jit(functools.partial(tree_attention, implementation=implementation))
    out, lse = call(q, jnp.swapaxes(self.k, 2, 3), self.v, made)
    for row, path in enumerate(paths):
      wide = q[row].astype(np.float64)
      levels = [level(wide, self.tokens(self.k, node), self.tokens(self.v, node)) for node in path]
      want, want_lse = merged(levels)
      np.testing.assert_allclose(out[row], want, atol=2e-6)
      np.testing.assert_allclose(lse[row], want_lse, atol=1e-5)


@pytest.mark.parametrize('implementation', ['reference', 'xla', 'xla_cpu'])
@pytest.mark.parametrize(
  'rows,own,shared,heads,size', [(12, 37, 128, 8, 128), (17, 17, 512, 16, 128), (12, 37, 512, 8, 256)]
)
def test_a_shared_prefix_equals_the_merge_of_both_levels(implementation, rows, own, shared, heads, size):
  cascade = Cascade([shared] + [own] * rows, heads, size)
  cascade.check([(0, 1 + row) for row in range(rows)], implementation)


@pytest.mark.parametrize('implementation', ['reference', 'xla', 'xla_cpu'])
def test_three_levels(implementation):
  """Two prompts of one system prompt, each with 9 rows; a row's own tokens end inside a page."""
  rows = range(18)
  cascade = Cascade([256, 64, 112] + [5 + 2 * row for row in rows], heads=4, size=64)
  cascade.check([(0, 1 + row // 9, 3 + row) for row in rows], implementation)
