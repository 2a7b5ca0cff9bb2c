"""From audio to one vector a frame: the encoder of both tokenizers.

B batch   N samples   F frames
"""

import jax

from core import conv
from vibevoice.config import TokenizerConfig
from vibevoice.tokenizer import tower
from vibevoice.tokenizer.tower import Params, State


def spec(config: TokenizerConfig) -> Params:
  """Every weight, once."""
  init = tower.initialiser(config)
  widths = config.widths
  stem = conv.plain_spec(config.kernel, 1, widths[0], init)
  stages = {0: tower.stage_spec(config, stem, widths[0], config.depths[0])}
  for i, stride in enumerate(config.ratios, start=1):
    entry = conv.down_spec(stride, widths[i - 1], widths[i], init)
    stages[i] = tower.stage_spec(config, entry, widths[i], config.depths[i])
  return Params(stages=stages, head=conv.plain_spec(config.kernel, widths[-1], config.latent, init))


def initial(params: Params, config: TokenizerConfig, rows: int) -> State:
  """The state before a stream of `rows`."""
  entries = (config.kernel - 1, *config.ratios)
  return tower.initial(params, config, rows, inputs=1, entries=entries, widths=config.widths)


def apply(
  params: Params, config: TokenizerConfig, wav: jax.Array, state: State, *, ceil: bool = False
) -> tuple[jax.Array, State]:
  """(means [B, F, latent], state) of the next samples [B, N] of a stream; N is a multiple of the hop.

  ceil: N is any number, and each layer pads its own input at the end of the stream, as the original code does; the
  last mean then differs from that of a padded waveform. Raises ValueError for a part of a hop without it.
  """
  strides = (1, *config.ratios) if ceil else ()
  return tower.apply(params, config, wav[..., None], state, resample=conv.down, ceil=strides)
