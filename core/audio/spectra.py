"""Power spectra and mel filters."""

import functools

import jax.numpy as jnp
import numpy as np

LINEAR_STEP = 200 / 3  # Hz a mel below BREAK
BREAK = 1000.0  # Hz, where the scale becomes logarithmic
LOG_STEP = np.log(6.4) / 27


def hz_to_mel(hz):
  """Slaney's mel scale: linear below 1 kHz, then logarithmic."""
  hz = np.asarray(hz, np.float64)
  linear = hz / LINEAR_STEP
  above = np.maximum(hz, BREAK)
  ratio = np.log(above / BREAK)
  logarithmic = BREAK / LINEAR_STEP + ratio / LOG_STEP
  return np.where(hz < BREAK, linear, logarithmic)


def mel_to_hz(mel):
  """The inverse of `hz_to_mel`."""
  mel = np.asarray(mel, np.float64)
  edge = BREAK / LINEAR_STEP
  linear = mel * LINEAR_STEP
  steps = np.maximum(mel, edge) - edge
  logarithmic = BREAK * np.exp(LOG_STEP * steps)
  return np.where(mel < edge, linear, logarithmic)


@functools.lru_cache
def mel_filters(mels: int, *, rate: int, size: int) -> np.ndarray:
  """Triangular filters float32 [mels, size/2 + 1] from 0 to rate/2 Hz on Slaney's scale, each of area 1 in Hz.

  size: samples of the Fourier transform. The array is shared: do not write to it.
  """
  highest = rate / 2
  bins = np.linspace(0, highest, size // 2 + 1)
  edges = mel_to_hz(np.linspace(0, hz_to_mel(highest), mels + 2))
  low = edges[:-2, None]
  centre = edges[1:-1, None]
  high = edges[2:, None]
  rising = (bins - low) / (centre - low)
  falling = (high - bins) / (high - centre)
  tent = np.minimum(rising, falling)
  triangles = np.maximum(0, tent)
  filters = triangles * 2 / (high - low)
  filters = filters.astype(np.float32)
  filters.setflags(write=False)
  return filters


@functools.lru_cache
def hann(size: int) -> np.ndarray:
  """The periodic Hann window, float64 [size]."""
  angles = 2 * np.pi * np.arange(size) / size
  return 0.5 - 0.5 * np.cos(angles)


def power_spectrum(samples, *, size: int, hop: int):
  """|`spectrum`|²."""
  values = spectrum(samples, size=size, hop=hop)
  real = jnp.real(values)
  imaginary = jnp.imag(values)
  return real**2 + imaginary**2


def spectrum(samples, *, size: int, hop: int):
  """Complex STFT [..., 1 + n // hop, size/2 + 1] of samples [..., n] under a periodic Hann window of `size` samples.

  Frame t is centred on sample t·hop; the signal is reflected at both ends.
  """
  *leading, length = samples.shape
  half = size // 2
  widths = [(0, 0)] * len(leading) + [(half, half)]
  padded = jnp.pad(samples, widths, mode='reflect')
  window = jnp.asarray(hann(size), padded.dtype)
  frames = _framed(padded, 1 + length // hop, size=size, hop=hop)
  return jnp.fft.rfft(frames * window)


def _framed(samples, count: int, *, size: int, hop: int):
  """Frames [..., count, size] that begin every `hop` samples of samples [..., n]."""
  if size % hop:
    starts = hop * np.arange(count)
    index = starts[:, None] + np.arange(size)
    return samples[..., index]
  # The gradient of a gather is a slow scatter; frames that overlap by whole hops are shifted blocks.
  overlap = size // hop
  length = (count + overlap - 1) * hop
  used = samples[..., :length]
  *leading, _ = used.shape
  blocks = used.reshape(*leading, -1, hop)
  shifted = [blocks[..., i : i + count, :] for i in range(overlap)]
  return jnp.concatenate(shifted, -1)
