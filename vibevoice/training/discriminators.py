"""Discriminators of DAC (arXiv 2306.06546, §3.3): do samples sound recorded, seen as images of several kinds?

By period p (HiFi-GAN, arXiv 2010.05646): every p-th sample in a column. By window: a complex spectrogram in bands of
frequency. Weights are plain; the published ones are normalised by weight.

B batch   N samples   C channels
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core import audio
from core.conv import Conv, conv2d, conv2d_spec

BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # edges, as shares of the frequencies
GROWTH = (1, 4, 16, 32, 32)  # channels of the layers by period, as multiples of `Config.channels`
SLOPE = 0.1  # of leaky rectifiers
# Kernel and stride of each layer of a band, over (frames, frequencies).
BAND_LAYERS = (
  ((3, 9), (1, 1)),
  ((3, 9), (1, 2)),
  ((3, 9), (1, 2)),
  ((3, 9), (1, 2)),
  ((3, 3), (1, 1)),
)


@dataclasses.dataclass(frozen=True)
class Config:
  """Which discriminators there are; the defaults are DAC's. windows: samples of a Fourier transform, hop a quarter."""

  periods: tuple[int, ...] = (2, 3, 5, 7, 11)
  windows: tuple[int, ...] = (2048, 1024, 512)
  channels: int = 32


@struct.dataclass
class Params:
  """Weights by period, and by window: layers by number; of a window, those of each band, and the last over all."""

  periods: dict[int, dict[int, Conv]]
  windows: dict[int, Any]


@struct.dataclass
class Window:
  """bands: by number of band, its layers by number."""

  bands: dict[int, dict[int, Conv]]
  last: Conv


def spec(config: Config) -> Params:
  """Every weight, once."""
  return Params(
    periods={period: _period_spec(config.channels) for period in config.periods},
    windows={size: _window_spec(config.channels) for size in config.windows},
  )


def _period_spec(channels: int) -> dict[int, Conv]:
  widths = [1, *(channels * times for times in GROWTH)]
  layers = [conv2d_spec((5, 1), before, after) for before, after in itertools.pairwise(widths)]
  verdict = conv2d_spec((3, 1), widths[-1], 1)
  return dict(enumerate([*layers, verdict]))


def _window_spec(channels: int) -> Window:
  layers = {}
  inputs = 2  # real and imaginary part
  for number, (kernel, _) in enumerate(BAND_LAYERS):
    layers[number] = conv2d_spec(kernel, inputs, channels)
    inputs = channels
  bands = dict.fromkeys(range(len(BANDS) - 1), layers)
  return Window(bands=bands, last=conv2d_spec((3, 3), channels, 1))


def apply(params: Params, wav: jax.Array) -> list[list[jax.Array]]:
  """Features [B, ., ., C] of each discriminator of audio [B, N], layer by layer; the last one is its verdict."""
  by_period = [_by_period(layers, wav, period) for period, layers in params.periods.items()]
  by_window = [_by_window(window, wav, size) for size, window in params.windows.items()]
  return [*by_period, *by_window]


def _by_period(layers: dict[int, Conv], wav: jax.Array, period: int) -> list[jax.Array]:
  rows, samples = wav.shape
  padded = jnp.pad(wav, ((0, 0), (0, -samples % period)), mode='reflect')
  x = padded.reshape(rows, -1, period, 1)
  features = []
  *strided, unstrided, last = layers.values()
  for layer in strided:
    x = _rectified(conv2d(x, layer, stride=(3, 1)))
    features.append(x)
  x = _rectified(conv2d(x, unstrided))
  return [*features, x, conv2d(x, last)]


def _rectified(x: jax.Array) -> jax.Array:
  return jax.nn.leaky_relu(x, SLOPE)


def _by_window(window: Window, wav: jax.Array, size: int) -> list[jax.Array]:
  values = audio.spectrum(wav, size=size, hop=size // 4)
  image = jnp.stack([jnp.real(values), jnp.imag(values)], -1)
  bins = image.shape[2]
  edges = [round(share * bins) for share in BANDS]
  features = []
  ends = []
  for number, layers in window.bands.items():
    low = edges[number]
    high = edges[number + 1]
    x = image[:, :, low:high]
    for layer, (_, stride) in zip(layers.values(), BAND_LAYERS):
      x = _rectified(conv2d(x, layer, stride=stride))
      features.append(x)
    ends.append(x)
  joined = jnp.concatenate(ends, 2)
  return [*features, conv2d(joined, window.last)]
