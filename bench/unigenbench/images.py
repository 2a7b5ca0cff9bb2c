"""Makes the images that UniGenBench judges, with a FLUX.1 or SD3 folder.

    python -m bench.unigenbench.images --data=test_prompts_en.csv --model=FOLDER --out=IMAGES

Image k of the prompt with number INDEX is IMAGES/INDEX_k.png, of seed SEED + k. Images that exist are not made again,
so the same command continues a stopped one. Then judge them:

    python -m bench.run --task=unigenbench --data=test_prompts_en.csv --set=images=IMAGES --model=JUDGE
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from bench.unigenbench.prompts import Prompt, load
from core.launch import command
from core.launch.fields import field

SEED = 3407  # of the first image of a prompt, as published
Draw = Callable[[Prompt, Sequence[int]], Sequence[Any]]  # PIL images of a prompt, one for each seed


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  data: str | None = field(None, 'CSV file of prompts')
  model: str | None = field(None, 'folder of a FLUX.1 or SD3 checkpoint, or its URL')
  out: str = field('images', 'folder for the images')
  per_prompt: int = field(4, 'images of each prompt', low=1)
  limit: int = field(0, 'only the first prompts, this many; 0 for all', low=0)
  side: int = field(1024, 'pixels', low=1)
  seed: int = field(SEED, 'of the first image of each prompt', low=0)
  dtype: Literal['bfloat16', 'float32'] = field('bfloat16', 'of weights and arithmetic')

  def __post_init__(self):
    if not self.data or not self.model:
      raise ValueError('--data=CSV and --model=FOLDER are needed')


def write(prompts: Sequence[Prompt], draw: Draw, folder: str | Path, *, per_prompt: int = 4, seed: int = SEED) -> int:
  """Writes the images of the prompts that are missing in `folder`; returns how many it made."""
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  made = 0
  for prompt in prompts:
    paths = {k: folder / f'{prompt.index}_{k}.png' for k in range(per_prompt)}
    missing = [k for k, path in paths.items() if not path.exists()]
    if not missing:
      continue
    images = draw(prompt, [seed + k for k in missing])
    for k, image in zip(missing, images, strict=True):
      draft = paths[k].with_suffix('.part')
      image.save(draft, 'PNG')
      draft.replace(paths[k])
    made += len(missing)
  return made


def _drawer(options: Options, prompts: Sequence[Prompt]) -> Draw:
  """Draws with a published folder; all prompts are encoded first, so that the text encoders' memory is free again."""
  import jax
  import numpy as np
  from PIL import Image

  from rl.flow import generation
  from rl.flow import prompts as encoding
  from rl.flow.files import pipeline

  config, autoencoder = pipeline.read_configs(options.model)
  generation.check_size(config, autoencoder, options.side, options.side)
  texts = pipeline.load_texts(options.model, dtype=options.dtype)
  condition = encoding.encode(texts, [prompt.text for prompt in prompts], width=config.text)
  del texts
  generator = pipeline.load_generator(options.model, dtype=options.dtype)
  row = {prompt.index: i for i, prompt in enumerate(prompts)}

  def draw(prompt: Prompt, seeds: Sequence[int]) -> list[Image.Image]:
    rows = np.full(len(seeds), row[prompt.index])
    own = jax.tree.map(lambda x: x[rows], condition.replace(nothing=None))
    own = own.replace(nothing=condition.nothing)
    made = generation.images(generator, own, seeds, height=options.side, width=options.side)
    return [Image.fromarray(image) for image in made]

  return draw


def make(options: Options) -> None:
  """Everything after the flags. Raises ValueError or OSError with one clear line."""
  prompts = load(options.data).prompts
  prompts = prompts[: options.limit] if options.limit else prompts
  made = write(prompts, _drawer(options, prompts), options.out, per_prompt=options.per_prompt, seed=options.seed)
  print(f'{made} images of {len(prompts)} prompts: {options.out}')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status: 0, 1 for an error or 2 for bad flags."""
  return command.run(argv, __doc__, Options, make)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
