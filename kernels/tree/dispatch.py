"""One `tree_attention(...)`; which implementation runs is decided when the program is lowered."""

import functools

import jax

from kernels.tree import reference, xla

IMPLEMENTATIONS = {'xla': xla.run, 'reference': reference.run}
PREFERRED = {'tpu': 'pallas_tpu', 'cuda': 'mosaic_gpu'}  # taken where it is among the implementations


def tree_attention(q, k_pages, v_pages, plan, *, window=None, sinks=None, implementation=None):
  """Attention of one query a row over the row's pages; pages shared by rows are read once for all of them.

  q: [R, N, H]. k_pages: [pages, K, H, page_size], keys in columns; v_pages: [pages, K, page_size, H]; N a multiple of
  K. Tokens beyond a row's length are not read, whatever they hold. plan: `kernels.tree.plan.Plan`;
  `plan.lengths` int32 [R] counts the tokens that a row reads, its own included. window: a row reads its last `window`
  tokens only. sinks: [N], one extra logit a head that takes part in the softmax and is dropped (GPT-OSS).
  Returns ([R, N, H] in q's dtype, log-sum-exp of the scores [R, N] in float32 or wider); a row without tokens gives 0
  and -inf. Scores and sums are float32, or float64 for float64 input.
  implementation: None picks by platform; 'xla' or 'reference' by name. Raises ValueError for an unknown name or
  shapes that do not fit, NotImplementedError for a kernel that is not there.
  """
  (_, n, h), (pages, heads, size, tokens) = q.shape, k_pages.shape
  if n % heads or h != size or v_pages.shape != (pages, heads, tokens, size):
    raise ValueError(
      f'tree_attention: q {q.shape} does not fit pages {k_pages.shape} and {v_pages.shape}; expected '
      '[R, N, H], [pages, K, H, page_size] and [pages, K, page_size, H] with N a multiple of K'
    )
  if q.shape[0] != plan.lengths.shape[0]:
    raise ValueError(f'tree_attention: {q.shape[0]} rows of q and a plan of {plan.lengths.shape[0]}')
  call = functools.partial(_run, window=window)
  args = q, k_pages, v_pages, plan, sinks
  if implementation is not None:
    return call(implementation, *args)
  there = {platform: name for platform, name in PREFERRED.items() if name in IMPLEMENTATIONS}
  default = functools.partial(call, 'xla')
  kernels = {platform: functools.partial(call, name) for platform, name in there.items()}
  return jax.lax.platform_dependent(*args, **kernels, default=default) if kernels else default(*args)


def _run(name, q, k_pages, v_pages, plan, sinks, *, window):
  if name in PREFERRED.values() and name not in IMPLEMENTATIONS:
    raise NotImplementedError(f'tree_attention has no {name} kernel; there are {sorted(IMPLEMENTATIONS)}')
  if name not in IMPLEMENTATIONS:
    raise ValueError(f'tree_attention implementation {name!r}; expected one of {sorted(IMPLEMENTATIONS)}')
  return IMPLEMENTATIONS[name](q, k_pages, v_pages, plan, window=window, sinks=sinks)
