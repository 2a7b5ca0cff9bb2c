"""Makes images of prompts with a FLUX.1 or SD3 folder and writes them as one PNG grid, a row for each prompt.

    python -m rl.flow.generate --model=FOLDER --prompt='a red square' --prompt='a blue circle' --out=grid.png

The folder is one that diffusers reads: model_index.json with a folder for each part. Image i of a prompt has the seed
SEED + i, and does not depend on the other images. The text encoders are released before the transformer is loaded.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Literal

from core.launch import command
from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str | None = field(None, 'folder of a FLUX.1 or SD3 checkpoint, or its URL')
  prompt: tuple[str, ...] = field((), 'what to show, one flag for each row of the grid', repeated=True)
  out: str = field('images.png', 'PNG file to write')
  images: int = field(4, 'images of each prompt', low=1)
  height: int = field(1024, 'pixels', low=1)
  width: int = field(1024, 'pixels', low=1)
  steps: int | None = field(None, "steps of the sampler; by default the model family's own", low=2)
  guidance: float | None = field(None, "guidance scale; by default the model family's own", low=0)
  seed: int = field(0, 'of the first image of each prompt', low=0)
  batch: int = field(1, 'images made at a time', low=1)
  dtype: Literal['bfloat16', 'float32'] | None = field(
    None, 'of weights and arithmetic; by default bfloat16, and float32 on a CPU'
  )

  def __post_init__(self):
    if not self.model or not self.prompt:
      raise ValueError('--model=FOLDER and at least one --prompt=TEXT are needed')
    out = pathlib.Path(self.out)
    if out.suffix.lower() != '.png' or not out.parent.is_dir():
      raise ValueError(f'--out={self.out}: expected a .png file in a folder that exists')


def generate(options: Options) -> None:
  """Everything after the flags. Raises ValueError or OSError with one clear line."""
  import jax

  from rl.flow import generation, prompts
  from rl.flow.files import pipeline

  config, autoencoder = pipeline.read_configs(options.model)
  generation.check_size(config, autoencoder, options.height, options.width)
  if options.guidance is not None and generation.defaults(config)[1] == 1:
    raise ValueError(f'--guidance={options.guidance}: this model was distilled to run without guidance')
  dtype = options.dtype or ('float32' if jax.default_backend() == 'cpu' else 'bfloat16')
  texts = pipeline.load_texts(options.model, dtype=dtype)
  condition = prompts.encode(texts, options.prompt, width=config.text)
  del texts
  generator = pipeline.load_generator(options.model, dtype=dtype)
  rows = _rows(options, generator, condition)
  generation.grid(rows).save(options.out)
  print(f'{len(options.prompt)} x {options.images} images of {options.height} x {options.width} pixels: {options.out}')


def _rows(options: Options, generator, condition) -> list[list]:
  """The images of each prompt, made `batch` at a time, with a bar of all steps."""
  import jax
  import numpy as np
  from tqdm import tqdm

  from rl.flow import generation

  prompts = np.repeat(np.arange(len(options.prompt)), options.images)
  seeds = options.seed + np.tile(np.arange(options.images), len(options.prompt))
  starts = range(0, len(seeds), options.batch)
  steps = options.steps or generation.defaults(generator.transformer.config)[0]
  made = []
  with tqdm(total=steps * len(starts), unit='step', disable=not sys.stderr.isatty()) as bar:
    for start in starts:
      chosen = slice(start, start + options.batch)
      part = jax.tree.map(lambda x, rows=prompts[chosen]: x[rows], condition.replace(nothing=None))
      made += list(
        generation.images(
          generator,
          part.replace(nothing=condition.nothing),
          seeds[chosen].tolist(),
          height=options.height,
          width=options.width,
          steps=steps,
          guidance=options.guidance,
          report=bar.update,
        )
      )
  return [made[i : i + options.images] for i in range(0, len(made), options.images)]


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status: 0, 1 for an error or 2 for bad flags."""
  return command.run(argv, __doc__, Options, generate)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
