"""Components of Whisper's decoder switched off: any set of them in each row of text, as data.

R rows   L layers   N heads   H head size   T tokens   D width
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from interp.whisper.config import Config

HEADED = ('z', 'cross_z')  # by head, before the output projection
WHOLE = ('attn_out', 'cross_attn_out', 'mlp_out')
SITES = HEADED + WHOLE


@dataclasses.dataclass(frozen=True, order=True)
class Component:
  """A head of self-attention (`z`) or cross-attention (`cross_z`), or what a whole branch adds; 0-based."""

  site: str
  layer: int
  head: int | None = None

  def __str__(self) -> str:
    place = f'{self.site}.{self.layer}'
    if self.head is None:
      return place
    return f'{place}.{self.head}'


def components(config: Config) -> tuple[Component, ...]:
  """Every head and every branch of the decoder."""
  layers = range(config.decoder_depth)
  heads = [Component(site, i, head) for site in HEADED for i in layers for head in range(config.heads)]
  branches = [Component(site, i) for site in WHOLE for i in layers]
  return (*heads, *branches)


@struct.dataclass
class Ablation:
  """An edit that puts `value` in place of the components that are `off` in each row.

  off: bool by site, [R or 1, L, N] of heads, [R or 1, L] of branches. value: by site, [L, N, H] and [L, D], or what
  broadcasts to that. share: of the value; the rest is what was there.
  """

  off: dict[str, jax.Array]
  value: dict[str, jax.Array]
  share: float | jax.Array = 1.0

  def __call__(self, site: str, layer, x: jax.Array) -> jax.Array:
    """x [R, T, N, H] or [R, T, D] as edited."""
    if site not in self.off:
      return x
    off = self.off[site][:, layer]
    inside = off[:, None, :, None] if site in HEADED else off[:, None, None]
    blended = (1 - self.share) * x + self.share * self.value[site][layer]
    return jnp.where(inside, blended.astype(x.dtype), x)


def without(
  config: Config,
  sets: Sequence[Sequence[Component]],
  values: Mapping[str, jax.Array] | None = None,
  *,
  share: float = 1.0,
) -> Ablation:
  """The edit in which row i lacks the components of sets[i]. values, share: of `Ablation`; zeros by default."""
  rows = len(sets)
  layers = config.decoder_depth
  off = {site: np.zeros((rows, layers, config.heads), bool) for site in HEADED}
  off |= {site: np.zeros((rows, layers), bool) for site in WHOLE}
  for row, chosen in enumerate(sets):
    for part in chosen:
      place = (row, part.layer) if part.head is None else (row, part.layer, part.head)
      off[part.site][place] = True
  masks = {site: jnp.asarray(mask) for site, mask in off.items()}
  return Ablation(off=masks, value=dict(values or _zeros(layers)), share=share)


def _zeros(layers: int) -> dict[str, jax.Array]:
  return {site: jnp.zeros((layers, 1, 1) if site in HEADED else (layers, 1)) for site in SITES}
