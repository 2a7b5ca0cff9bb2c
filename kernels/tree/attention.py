"""`tree_attention(...)`: checks shapes, then runs one of the implementations.

R rows   N query heads   K key heads   H head size
"""

from kernels import dispatch
from kernels.dispatch import Implementation
from kernels.tree import mosaic_gpu, pallas_tpu, reference, xla, xla_cpu

TABLE = dispatch.Table(
  'tree_attention',
  {
    'reference': Implementation(reference.run),
    'xla': Implementation(xla.run),
    'xla_cpu': Implementation(xla_cpu.run, platform='cpu', refuse=xla_cpu.refuse),
    'pallas_tpu': Implementation(pallas_tpu.run, platform='tpu', refuse=pallas_tpu.refuse),
    # By name only: it has not run on a GPU.
    'mosaic_gpu': Implementation(mosaic_gpu.run, refuse=mosaic_gpu.refuse),
  },
)


def tree_attention(q, k_pages, v_pages, plan, *, window=None, sinks=None, implementation=None):
  """Attention of one query a row over the row's pages; a page shared by several rows is read once for all of them.

  q: [R, N, H]. k_pages: [pages, K, H, page_size], keys in columns; v_pages: [pages, K, page_size, H]; N is a multiple
  of K. plan: `kernels.tree.plan.Plan`; `plan.lengths` int32 [R] counts the tokens that a row reads, its own included;
  values beyond it are never read, NaN included. window: a row reads only its last `window` tokens. sinks: [N], one
  extra logit a head that takes part in the softmax and is dropped (GPT-OSS). implementation: None picks by platform;
  or a name in `TABLE`.
  Returns ([R, N, H] in q's dtype, log-sum-exp of the scores [R, N] in float32 or wider); a row without tokens gives 0
  and -inf. Scores and sums are float32, or float64 for float64 input.
  Raises ValueError for an unknown implementation or shapes that do not fit, NotImplementedError for a named
  implementation that cannot compute these arguments.
  """
  _check_shapes(q, k_pages, v_pages, plan)
  return TABLE.call(q, k_pages, v_pages, plan, sinks, implementation=implementation, default='xla', window=window)


def _check_shapes(q, k_pages, v_pages, plan) -> None:
  rows, query_heads, head_size = q.shape
  pages, key_heads, key_size, page_size = k_pages.shape
  values_fit = v_pages.shape == (pages, key_heads, page_size, key_size)
  if query_heads % key_heads or head_size != key_size or not values_fit:
    raise ValueError(
      f'tree_attention: q {q.shape} does not fit pages {k_pages.shape} and {v_pages.shape}; expected '
      '[R, N, H], [pages, K, H, page_size] and [pages, K, page_size, H] with N a multiple of K'
    )
  if rows != plan.lengths.shape[0]:
    raise ValueError(f'tree_attention: {rows} rows of q and a plan of {plan.lengths.shape[0]}')
