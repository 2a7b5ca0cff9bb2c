"""Means of a decoder's activations over clean speech, for mean ablation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from core import padding
from interp.loops.ablation import SITES
from interp.loops.clips import Clip
from interp.whisper import decoder, frontend
from interp.whisper.decoding.window import Recogniser


def means_of(recogniser: Recogniser, clips: Sequence[Clip]) -> dict[str, jax.Array]:
  """The mean of each site over the tokens of what the model says of `clips`: [L, N, H] or [L, D].

  Raises ValueError without clips.
  """
  if not clips:
    raise ValueError('means: no clip is unchanged speech')
  sums = dict.fromkeys(SITES, 0)
  count = 0
  for clip in clips:
    kept, tokens = _kept(recogniser, clip)
    for site, x in kept.items():
      sums[site] = sums[site] + x.sum((1, 2))
    count += tokens
  return {site: jnp.asarray(x / count, jnp.float32) for site, x in sums.items()}


def _kept(r: Recogniser, clip: Clip) -> tuple[dict[str, np.ndarray], int]:
  """(activations [L, 1, T, …] of every site, T) of a teacher-forced run over what the model says."""
  mel = frontend.log_mel(clip.samples, r.config.mels, length=r.config.samples)
  keys = r.keys(mel[None])
  prompt = r.processor.prompt(language='en', timestamps=False)
  (result,) = r(keys, [prompt], [0])
  row = [*prompt, *result.tokens]
  length = len(row)
  slots = padding.bucket(length)
  tokens = padding.batch([row], dtype=np.int32, length=slots)
  positions = padding.positions([length], slots)
  padded = _run(r.params.decoder, r.config, keys, jnp.asarray(tokens), jnp.asarray(positions))
  kept = {}
  for site, x in padded.items():
    wide = np.asarray(x, np.float64)
    kept[site] = wide[:, :, :length]
  return kept, length


def _forward(params, config, keys, tokens, positions):
  return decoder.forward(params, config, tokens, keys, positions=positions, keep=SITES).kept


_run = jax.jit(_forward, static_argnums=1)
