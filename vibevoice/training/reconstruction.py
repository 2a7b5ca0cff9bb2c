"""What the acoustic tokenizer learns: to say in one vector a frame what it hears (σ-VAE, arXiv 2412.08635).

    loss = w_mel · mel distance + w_wave · L1 of the waveform + w_latent · mean(means²)

The mel distance is DAC's (arXiv 2306.06546): L1 between log mel spectra of several windows. The last part stands for
the KL divergence of Gaussians of fixed variance, up to constants; it keeps latents near the scale of their noise.

B batch   N samples   F frames
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import audio
from core.training.steps import Loss
from vibevoice import tokenizer
from vibevoice.config import SAMPLE_RATE, TokenizerConfig

# Window in samples and number of mels; windows are a quarter apart.
RESOLUTIONS = ((256, 20), (512, 40), (1024, 80))
FLOOR = 1e-5  # amplitude below which log spectra are flat


@dataclasses.dataclass(frozen=True)
class Weights:
  """How much each part counts; 15 is DAC's."""

  mel: float = 15.0
  wave: float = 1.0
  latent: float = 0.01


@struct.dataclass
class Batch:
  """wav: float32 [B, N], whole hops. weight: float32 [B], which sums to 1 over a whole batch."""

  wav: Any
  weight: Any


def log_mel(wav: jax.Array, size: int, mels: int) -> jax.Array:
  """Log10 amplitudes float32 [..., 1 + 4 N // size, mels] of audio [..., N]."""
  power = audio.power_spectrum(wav, size=size, hop=size // 4)
  filters = audio.mel_filters(mels, rate=SAMPLE_RATE, size=size)
  amplitude = jnp.sqrt(jnp.maximum(power, FLOOR**2))
  # Slaney's triangles have area 1; scaled to a peak of about 1, a mel is an amplitude too.
  scaled = filters / filters.sum(1, keepdims=True)
  return jnp.log10(jnp.maximum(amplitude @ scaled.T, FLOOR))


def mel_distance(a: jax.Array, b: jax.Array) -> jax.Array:
  """Mean absolute difference [B] of the log mel spectra of audio [B, N], averaged over `RESOLUTIONS`."""
  distances = []
  for resolution in RESOLUTIONS:
    difference = log_mel(a, *resolution) - log_mel(b, *resolution)
    distances.append(jnp.abs(difference).mean((1, 2)))
  return sum(distances) / len(distances)


def noise_ratio(reference: np.ndarray, estimate: np.ndarray) -> float:
  """Signal to noise in dB of float [n] samples: 10 log10(Σ reference² / Σ (reference - estimate)²)."""
  reference = np.asarray(reference, np.float64)
  noise = reference - np.asarray(estimate, np.float64)
  ratio = np.sum(reference**2) / np.sum(noise**2)
  return float(10 * np.log10(ratio))


def loss(
  params: tokenizer.Params, config: TokenizerConfig, batch: Batch, key: jax.Array, *, weights: Weights = Weights()
) -> Loss:
  """The weighted sum of the parts above; the metrics `mel`, `wave` and `latent` are weighted, and add up to it."""
  _, made = parts(params, config, batch, key, weights=weights)
  return summed(made, batch.weight)


def parts(
  params: tokenizer.Params, config: TokenizerConfig, batch: Batch, key: jax.Array, *, weights: Weights
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """(audio [B, N] that the tokenizer makes, weighted parts of the loss [B] by name)."""
  means = tokenizer.encode(params, config, batch.wav)
  made = tokenizer.decode(params, config, tokenizer.sample(config, means, key))
  return made, {
    'mel': weights.mel * mel_distance(made, batch.wav),
    'wave': weights.wave * jnp.abs(made - batch.wav).mean(1),
    'latent': weights.latent * jnp.square(means).mean((1, 2)),
  }


def summed(made: dict[str, jax.Array], weight: jax.Array) -> Loss:
  """The loss whose parts [B] are weighted by row, and all reported."""
  sums = {name: jnp.sum(part * weight) for name, part in made.items()}
  total = sum(sums.values())
  rows = jnp.sum(weight)
  return Loss(total, rows, {name: (value, rows) for name, value in sums.items()})
