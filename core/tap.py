"""Taps: where a model lets you look at an activation or change it.

Every `apply` takes `edit(site, layer, x) -> x`, called at each site, and `keep`, the names of sites to hand back.
"""

from collections.abc import Callable

SITES = ('resid_in', 'attn_in', 'attn_out', 'mlp_in', 'mlp_out', 'resid_out')


def check(keep, sites=SITES) -> None:
  """Raises ValueError when `keep` names a site the model does not have."""
  unknown = [s for s in keep if s not in sites]
  if unknown:
    raise ValueError(f'keep={unknown}: unknown site; expected some of {list(sites)}')


def taps(edit: Callable | None, keep, layer, prefix: str = '') -> tuple[Callable, dict]:
  """`(tap, kept)` for one layer: `tap(site, x)` edits x and notes it in `kept` when it is asked for."""
  kept = {}

  def tap(site, x):
    site = prefix + site
    if edit is not None:
      x = edit(site, layer, x)
    if site in keep:
      kept[site] = x
    return x

  return tap, kept
