"""Images from encoded prompts, by the deterministic sampler.

R images   Y, X rows and columns of pixels   y, x of latents   C channels
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from core.mesh import RULES
from rl.flow import mmdit, vae
from rl.flow.files import scheduler
from rl.flow.files.pipeline import Generator
from rl.flow.sampling import Schedule, Step, euler
from rl.flow.velocity import Condition, velocity

GAP = 4  # pixels between images of a grid
ENDS = {'flux': 'step', 'sd3': 'tick'}


def defaults(config: mmdit.Config) -> tuple[int, float]:
  """(steps, guidance) that suit a model: FLUX.1-dev, FLUX.1-schnell, which is distilled to few steps, and SD3.5."""
  if config.guidance:
    return 30, 3.5
  if config.axes is not None:
    return (4, 1.0)
  return (40, 4.5)


def check_size(config: mmdit.Config, autoencoder: vae.Config, height: int, width: int) -> None:
  """Raises ValueError for images whose sides, in pixels, the models cannot make."""
  step = config.patch * autoencoder.factor
  if min(height, width) < step or height % step or width % step:
    raise ValueError(f'{height} x {width} pixels: expected positive multiples of {step}')
  if config.table is not None and max(height, width) > config.table * step:
    raise ValueError(f'{height} x {width} pixels: expected at most {config.table * step} a side')


def noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> jax.Array:
  """float32 [R, y, x, C]: the start of each image, which depends on its seed and the shape [y, x, C] alone."""
  return jnp.stack([jax.random.normal(jax.random.key(seed), shape) for seed in seeds])


@functools.partial(jax.jit, static_argnames=('config', 'guidance', 'rules'))
def _step(params, condition: Condition, x, levels, time, index, *, config, guidance: float, rules) -> jax.Array:
  """Latents after one deterministic step."""
  rows = x.shape[0]
  v = velocity(params, config, x, jnp.full(rows, time), condition, guidance=guidance, rules=dict(rules))
  return euler(x, v, Step.at(levels, jnp.full(rows, index)))


def latents(
  generator: Generator,
  condition: Condition,
  x: jax.Array,
  schedule: Schedule,
  *,
  guidance: float,
  rules=RULES,
  report: Callable[[], None] | None = None,
) -> jax.Array:
  """float32 [R, y, x, C]: noise x followed to data. report: called after each step."""
  part = generator.transformer
  levels = jnp.asarray(schedule.levels)
  frozen = tuple(rules.items())
  for index, time in enumerate(schedule.times):
    options = {'config': part.config, 'guidance': guidance, 'rules': frozen}
    x = _step(part.params, condition, x, levels, time, index, **options)
    if report is not None:
      jax.block_until_ready(x)
      report()
  return x


run_decoder = jax.jit(vae.decode, static_argnums=1)  # one program for all callers


def images(
  generator: Generator,
  condition: Condition,
  seeds: Sequence[int],
  *,
  height: int,
  width: int,
  steps: int | None = None,
  guidance: float | None = None,
  report: Callable[[], None] | None = None,
) -> np.ndarray:
  """uint8 [R, Y, X, 3], an image for each row of the condition and its seed, of height x width pixels.

  An image depends on its seed and prompt alone, up to rounding. steps, guidance: by default as `defaults` says.
  Raises ValueError for a size the models cannot make, and for rows and seeds that differ in number.
  """
  config = generator.transformer.config
  autoencoder = generator.vae.config
  check_size(config, autoencoder, height, width)
  rows = condition.context.shape[0]
  if len(seeds) != rows:
    raise ValueError(f'{len(seeds)} seeds; expected one for each of {rows} prompts')
  usual_steps, usual_guidance = defaults(config)
  if steps is None:
    steps = usual_steps
  if guidance is None:
    guidance = usual_guidance
  shape = (height // autoencoder.factor, width // autoencoder.factor, config.channels)
  patches = shape[0] * shape[1] // config.patch**2
  schedule = scheduler.schedule(generator.scheduler, steps, patches, ENDS[generator.family])
  x = latents(generator, condition, noise(seeds, shape), schedule, guidance=guidance, report=report)
  return to_bytes(run_decoder(generator.vae.params, autoencoder, x))


def to_bytes(decoded: Any) -> np.ndarray:
  """uint8 of images from -1 to 1; values outside are clipped. Raises ValueError for NaN and infinities."""
  values = np.asarray(decoded, np.float32)
  if not np.isfinite(values).all():
    raise ValueError('the images hold NaN or infinities: a precision that overflows, or damaged weights')
  from_zero = np.clip(values, -1, 1) + 1
  return np.round(127.5 * from_zero).astype(np.uint8)


def grid(rows: Sequence[Sequence[np.ndarray]]) -> Image.Image:
  """One picture of images uint8 [Y, X, 3] of one size, by rows."""
  height, width, _ = rows[0][0].shape
  columns = max(map(len, rows))
  sheet_height = len(rows) * (height + GAP) - GAP
  sheet_width = columns * (width + GAP) - GAP
  sheet = np.full((sheet_height, sheet_width, 3), 255, np.uint8)
  for i, row in enumerate(rows):
    for j, image in enumerate(row):
      top = i * (height + GAP)
      left = j * (width + GAP)
      sheet[top : top + height, left : left + width] = image
  return Image.fromarray(sheet)
