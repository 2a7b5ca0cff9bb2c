"""Progress without a score: does an image win against that of the model before training?"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from PIL import Image

from rl.query import Query
from rl.rewards.pairwise import JudgeFailed, prompt_of
from rl.rollout import Ask, Plan


def path_of(folder: pathlib.Path, prompt: str) -> pathlib.Path:
  """Where the first image of a prompt is kept."""
  return folder / f'{hashlib.sha256(prompt.encode()).hexdigest()[:16]}.png'


@dataclasses.dataclass(frozen=True)
class Remembered:
  """`plan`, whose first image of each prompt is kept in `folder`: of an evaluation, that before training."""

  plan: Plan
  folder: pathlib.Path

  def __call__(self, sampler, ask: Ask) -> list:
    """As of `rl.rollout.Plan`."""
    groups = self.plan(sampler, ask)
    if jax.process_index() == 0:
      self.folder.mkdir(parents=True, exist_ok=True)
      for query, group in zip(ask.queries, groups):
        self._keep(path_of(self.folder, prompt_of(query)), group[0].response)
    return groups

  def _keep(self, path: pathlib.Path, image: Image.Image) -> None:
    if not path.exists():
      partial = path.with_suffix('.partial')
      image.save(partial, 'PNG')
      partial.rename(path)


@dataclasses.dataclass(frozen=True)
class Against:
  """1 if the judge prefers an image to the one that `Remembered` keeps of its prompt in `folder`, else 0.

  0 also for prompts without one, equal images, ties and failed requests. judge: as of `rl.rewards.pairwise.Pairwise`.
  """

  judge: Callable[[str, Any, Any], str]
  folder: pathlib.Path

  def __call__(self, query: Query, image: Image.Image) -> float:
    prompt = prompt_of(query)
    path = path_of(self.folder, prompt)
    if not path.exists():
      return 0.0
    base = Image.open(path).convert(image.mode)
    if base.tobytes() == image.tobytes():
      return 0.0
    return float(self._wins(prompt, image, base))

  def _wins(self, prompt: str, image: Image.Image, base: Image.Image) -> bool:
    """Shown second for half of the prompts, so that a judge's liking for a place counts for neither."""
    try:
      if len(prompt) % 2:
        return self.judge(prompt, base, image) == 'second'
      return self.judge(prompt, image, base) == 'first'
    except JudgeFailed:
      return False
