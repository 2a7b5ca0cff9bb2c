"""UniGenBench's whole path on a model of `rl.train --config=pref_grpo`: prompts, images, verdicts, report.

    python -m bench.unigenbench.digits --model=runs/pref/model --out=runs/digits

The prompts are the forty captions of digits in the released form, and the judge is a script that measures pixels. The
numbers say whether digits are drawn as asked; they are no UniGenBench result, and cannot be compared with one.
"""

import csv
import dataclasses
import io
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from bench.harness import runner
from bench.harness.task import Answer, Sampling
from bench.unigenbench.images import Draw, write
from bench.unigenbench.prompts import Prompt, load
from bench.unigenbench.task import unigenbench
from core.launch import command
from core.launch.fields import field
from rl.flow.toy import digits, judges

# The checkpoint that stands for each word of a caption.
POINTS = ('Attribute - Size', 'Attribute - Shape', 'Text Generation')
COLUMNS = ('index', 'prompt_en', 'sub_dims_en')


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str | None = field(None, 'folder `model` of a run of rl.train --config=pref_grpo')
  out: str = field('runs/digits', 'folder for prompts, images and the report')
  per_prompt: int = field(4, 'images of each prompt', low=1)
  steps: int = field(25, 'denoising steps of an image', low=3)

  def __post_init__(self):
    if not self.model:
      raise ValueError('--model=FOLDER is needed')


def prompt_file(captions: Sequence[str] = digits.PROMPTS) -> str:
  """A file of prompts in the released form, with a checkpoint for thickness, slant and digit each."""
  text = io.StringIO()
  rows = csv.writer(text, lineterminator='\n')
  rows.writerow(COLUMNS)
  for index, caption in enumerate(captions):
    _, *phrases = caption.split()
    cell = {
      'Primary Categories': 'Art',
      'Secondary Categories': 'Graphic Art',
      'Subjects': 'Other Entity',
      'Sentence Structure': 'Descriptive',
      'Testpoints': list(POINTS),
      'Testpoint Description': phrases,
    }
    rows.writerow([index, caption, json.dumps(cell)])
  return text.getvalue()


@dataclasses.dataclass
class MeasuringJudge:
  """Answers as UniGenBench's judge is asked to, from the pixels alone."""

  name: str = 'scripted'
  concurrent: bool = False
  asked: int = 0

  def settings(self, sampling: Sampling) -> Mapping[str, Any]:
    """As of `bench.harness.model.Model`."""
    return {}

  def __call__(self, messages: Sequence[Mapping], sampling: Sampling, seed: int) -> Answer:
    """As of `bench.harness.model.Model`."""
    self.asked += 1
    picture, text = messages[-1]['content']
    caption = next(caption for caption in digits.PROMPTS if caption in text['text'])
    wanted = digits.read(caption)
    image = Image.open(picture['image']).convert('L')
    seen = judges.seen(image, wanted.digit)
    scores = [int(seen.ink == wanted.ink), int(seen.slant == wanted.slant), int(seen.digit == wanted.digit)]
    analysis = f'a {digits.INK[seen.ink]} {digits.SLANT[seen.slant]} {digits.DIGITS[seen.digit]}'
    return Answer(f'<analysis>{analysis}</analysis><score>{scores}</score>')


def drawer(options: Options) -> Draw:
  """Draws with the model's deterministic sampler; an image depends on its prompt and seed alone."""
  from core.engine import EngineSize
  from rl.devices import meshes
  from rl.flow import train
  from rl.flow.configs import CONFIGS
  from rl.flow.policy import PathOptions, Paths
  from rl.rollout import Ask, Sampler

  config = dataclasses.replace(CONFIGS['pref_grpo'], model=options.model, paths=PathOptions(steps=options.steps))
  place, home = meshes(config)
  policy, weights = train.load(config, place)
  sampler = Sampler(dataclasses.replace(policy, rows=options.per_prompt), weights, EngineSize(), home)

  def draw(prompt: Prompt, seeds: Sequence[int]) -> list[Image.Image]:
    asked = policy.encode(prompt.text)
    ask = Ask(0, 0, list(seeds), [None] * len(seeds), [asked] * len(seeds))
    return [group[0].response for group in Paths(1, deterministic=True)(sampler, ask)]

  return draw


def judged(data: pathlib.Path, images: pathlib.Path, out: pathlib.Path, judge: Any, *, per_prompt: int) -> dict:
  """The report of the images of `data`'s prompts."""
  task = unigenbench(images=str(images), per_prompt=per_prompt)
  return runner.run(task, task.load(str(data)), str(out), model=judge, resamples=1000)


def work(options: Options) -> None:
  """Writes prompts, images and the report."""
  out = pathlib.Path(options.out)
  out.mkdir(parents=True, exist_ok=True)
  data = out / 'prompts.csv'
  data.write_text(prompt_file(), encoding='utf-8')
  write(load(str(data)).prompts, drawer(options), out / 'images', per_prompt=options.per_prompt)
  report = judged(data, out / 'images', out / 'report', MeasuringJudge(), per_prompt=options.per_prompt)
  for name, estimate in report['metrics'].items():
    if estimate['value'] is not None:
      print(
        f'{name:>32}  {100 * estimate["value"]:.1f} % ({100 * estimate["low"]:.1f} to {100 * estimate["high"]:.1f})'
      )
  print(f'report: {out / "report" / "report.html"}')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
