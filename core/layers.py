"""Norms, rotary positions and the gated MLP: small functions over explicit weights.

B batch   T time   D width   F feed-forward   N heads   H head size
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from core.params import einsum


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
  """RMSNorm (arXiv 1910.07467, eq. 4) of x [..., D], scale [D]; mean square in float32, scaled after the cast back."""
  x32 = x.astype(jnp.float32)
  mean_square = jnp.mean(x32 * x32, -1, keepdims=True)
  reciprocal = jax.lax.rsqrt(mean_square + eps)
  normed = x32 * reciprocal
  return normed.astype(x.dtype) * scale


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
  """LayerNorm (arXiv 1607.06450, eq. 4) of x [..., D], scale and bias [D]; statistics in float32."""
  x32 = x.astype(jnp.float32)
  normed = _standardised(x32, (-1,), eps)
  scaled = normed * scale + bias
  return scaled.astype(x.dtype)


def _standardised(x: jax.Array, axes: tuple[int, ...], eps: float) -> jax.Array:
  """x with mean 0 and variance 1 over `axes`."""
  mean = x.mean(axes, keepdims=True)
  centred = x - mean
  variance = jnp.mean(centred * centred, axes, keepdims=True)
  return centred * jax.lax.rsqrt(variance + eps)


def group_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, *, groups: int, eps: float) -> jax.Array:
  """GroupNorm (arXiv 1803.08494) of images [B, Y, X, C] over pixels and the channels of a group, in float32."""
  batch, height, width, _ = x.shape
  x32 = x.astype(jnp.float32)
  grouped = x32.reshape(batch, height, width, groups, -1)
  normed = _standardised(grouped, (1, 2, 4), eps)
  scaled = normed.reshape(x.shape) * scale + bias
  return scaled.astype(x.dtype)


def gelu(x: jax.Array) -> jax.Array:
  """Exact (erf) GELU (arXiv 1606.08415) of each value of x."""
  return jax.nn.gelu(x, approximate=False)


def tanh_gelu(x: jax.Array) -> jax.Array:
  """The tanh approximation of GELU (T5 1.1's `gelu_new`) of each value of x."""
  return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: jax.Array) -> jax.Array:
  """The sigmoid approximation of GELU (CLIP), x σ(1.702 x), of each value of x."""
  return x * jax.nn.sigmoid(1.702 * x)


def gated_mlp(x: jax.Array, gate, up, down) -> jax.Array:
  """SwiGLU: down(silu(gate x) ⊙ up x), [B, T, D] to [B, T, D]."""
  gated = jax.nn.silu(einsum('btd,df->btf', x, gate))
  raised = einsum('btd,df->btf', x, up)
  return einsum('btf,fd->btd', gated * raised, down)


@dataclasses.dataclass(frozen=True)
class Yarn:
  """YaRN context extension (arXiv 2309.00071).

  truncate: rounds the correction bounds to whole dimensions. scale: factor on cos and sin; None for the paper's
  0.1 ln(factor) + 1.
  """

  factor: float
  original_length: int
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  truncate: bool = True
  scale: float | None = None

  @property
  def attention_factor(self) -> float:
    """The factor on cos and sin."""
    if self.scale is None:
      return self.temperature(self.factor)
    return self.scale

  @staticmethod
  def temperature(factor: float, slope: float = 1.0) -> float:
    """0.1 slope ln(factor) + 1, and 1 where nothing is extended."""
    if factor <= 1:
      return 1.0
    return 0.1 * slope * math.log(factor) + 1.0

  def interpolated(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
    """The share of each frequency, 0 to 1 [H/2], that is divided by `factor`."""
    pairs = len(frequencies)
    low, high = _yarn_bounds(2 * pairs, theta, self)
    # Pairs below `low` keep their frequency, pairs above `high` are interpolated, and a ramp connects them.
    width = max(high - low, 1e-3)
    ramp = (np.arange(pairs) - low) / width
    return np.clip(ramp, 0, 1)


@dataclasses.dataclass(frozen=True)
class Llama3Rope:
  """The context extension of Llama 3.1 (arXiv 2407.21783 §3.4.2; the formula is in the released `apply_scaling`).

  Pairs that turn more than `high_freq_factor` times in the original length keep their frequency, those that turn less
  than `low_freq_factor` times are interpolated, and a ramp over the number of turns connects them.
  """

  factor: float
  original_length: int
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  attention_factor: ClassVar[float] = 1.0

  def __post_init__(self):
    if not 0 < self.low_freq_factor < self.high_freq_factor:
      raise ValueError(
        f'low_freq_factor={self.low_freq_factor}, high_freq_factor={self.high_freq_factor}: expected 0 < low < high'
      )

  def interpolated(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
    """As of `Yarn`."""
    turns = self.original_length * frequencies / (2 * math.pi)
    low = self.low_freq_factor
    high = self.high_freq_factor
    kept = (turns - low) / (high - low)
    return 1 - np.clip(kept, 0, 1)


RopeScaling = Yarn | Llama3Rope


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
  """Radians per position of each rotated pair, float64 [H/2]."""
  pairs = np.arange(0, head_dim, 2, dtype=np.float64)
  frequencies = theta ** (-pairs / head_dim)
  if scaling is None:
    return frequencies
  share = scaling.interpolated(frequencies, theta)
  kept = frequencies * (1 - share)
  interpolated = frequencies / scaling.factor * share
  return kept + interpolated


def _yarn_bounds(head_dim: int, theta: float, yarn: Yarn) -> tuple[float, float]:
  """The dimensions that make beta_fast and beta_slow turns over the original length."""

  def dimension(turns: float) -> float:
    wavelength = yarn.original_length / (turns * 2 * math.pi)
    return head_dim * math.log(wavelength) / (2 * math.log(theta))

  low = dimension(yarn.beta_fast)
  high = dimension(yarn.beta_slow)
  if yarn.truncate:
    low = math.floor(low)
    high = math.ceil(high)
  return max(low, 0), min(high, head_dim - 1)


def rope_tables(positions: jax.Array, head_dim: int, theta: float, scaling: RopeScaling | None = None):
  """cos and sin, float32 [B, T, H/2], of integer positions [B, T].

  Angles are float32: bfloat16 rounds position 257 to 256, which has a different sine.
  """
  frequencies = rope_frequencies(head_dim, theta, scaling)
  frequencies = jnp.asarray(frequencies, jnp.float32)
  column = positions[..., None].astype(jnp.float32)
  angles = column * frequencies
  scale = 1.0
  if scaling:
    scale = scaling.attention_factor
  return jnp.cos(angles) * scale, jnp.sin(angles) * scale


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates the halves of the last axis of x [..., H] by tables that broadcast against [..., H/2] (half-split rope)."""
  x32 = x.astype(jnp.float32)
  a, b = jnp.split(x32, 2, -1)
  first = a * cos - b * sin
  second = b * cos + a * sin
  rotated = jnp.concatenate([first, second], -1)
  return rotated.astype(x.dtype)


def rotate_pairs(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates neighbouring pairs of the last axis of x by tables that broadcast against [..., H/2] (interleaved rope)."""
  *leading, _ = x.shape
  x32 = x.astype(jnp.float32)
  pairs = x32.reshape(*leading, -1, 2)
  a = pairs[..., 0]
  b = pairs[..., 1]
  first = a * cos - b * sin
  second = a * sin + b * cos
  rotated = jnp.stack([first, second], -1)
  rotated = rotated.reshape(x.shape)
  return rotated.astype(x.dtype)


def sinusoids(values: jax.Array, width: int, period: float = 10_000.0) -> jax.Array:
  """Cosines, then sines, float32 [R, width] of values [R]: the embedding of a diffusion time.

  The angular frequencies fall geometrically from 1 to almost 1/period.
  """
  half = width // 2
  # The exponents are float32, as the published models have them: angles near 1000 amplify the last bit of a frequency.
  log_period = np.float32(-math.log(period))
  index = np.arange(half, dtype=np.float32)
  exponents = log_period * index / np.float32(half)
  frequencies = np.exp(exponents.astype(np.float64))
  frequencies = frequencies.astype(np.float32)
  column = values.astype(jnp.float32)[:, None]
  angles = column * frequencies
  cosines = jnp.cos(angles)
  sines = jnp.sin(angles)
  return jnp.concatenate([cosines, sines], -1)
