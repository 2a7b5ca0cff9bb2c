"""From one latent a frame to audio: the decoder of the acoustic tokenizer. Nothing in it clips or is drawn.

B batch   N samples   F frames
"""

import jax

from core import conv
from vibevoice.config import TokenizerConfig
from vibevoice.tokenizer import tower
from vibevoice.tokenizer.tower import Params, State


def spec(config: TokenizerConfig) -> Params:
  """Every weight, once: the mirror of the encoder."""
  init = tower.initialiser(config)
  widths = config.widths[::-1]
  depths = config.depths[::-1]
  stem = conv.plain_spec(config.kernel, config.latent, widths[0], init)
  stages = {0: tower.stage_spec(config, stem, widths[0], depths[0])}
  for i, stride in enumerate(config.ratios[::-1], start=1):
    entry = conv.up_spec(stride, widths[i - 1], widths[i], init)
    stages[i] = tower.stage_spec(config, entry, widths[i], depths[i])
  return Params(stages=stages, head=conv.plain_spec(config.kernel, widths[-1], 1, init))


def initial(params: Params, config: TokenizerConfig, rows: int) -> State:
  """The state before a stream of `rows`."""
  entries = (config.kernel - 1, *(1 for _ in config.ratios))
  return tower.initial(params, config, rows, inputs=config.latent, entries=entries, widths=config.widths[::-1])


def apply(params: Params, config: TokenizerConfig, latents: jax.Array, state: State) -> tuple[jax.Array, State]:
  """(samples [B, F hop], state) of the next latents [B, F, latent] of a stream."""
  wav, state = tower.apply(params, config, latents, state, resample=conv.up)
  return wav[..., 0], state
