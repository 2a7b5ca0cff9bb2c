"""Pref-GRPO of a published folder: prompts from files, and a server that compares images."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from core.serving.client import Endpoint, RequestFailed
from core.training.data import DataError, JsonLines
from rl.devices import meshes
from rl.evaluate import Evaluation
from rl.flow import generation
from rl.flow.configs import JudgeServer, PublishedConfig
from rl.flow.gallery import Gallery
from rl.flow.judges.chat import ChatJudge, endpoint
from rl.flow.policy import Paths
from rl.flow.published.against import Against, Remembered
from rl.flow.published.policy import Size, load
from rl.loop import run
from rl.report import Outcome, Page
from rl.rewards import Reward
from rl.rewards.pairwise import WEIGHTS, Pairwise
from rl.tasks import Task, questions

COLUMNS = 8  # of a grid of held-out images
BEFORE = 'before'  # folder with the held-out images before training
PROMPTS = 'prompts'  # folder with the encodings of prompts
PAGE = Page(
  title='A text-to-image model that learned from comparisons', answer=lambda image: '', pictures=lambda image: [image]
)


def train(config: PublishedConfig, workdir: pathlib.Path) -> Outcome:
  """Reinforcement learning of `config.model`, compared by `config.judge`. Raises ValueError for what is missing."""
  needed = {'model': config.model, 'data': config.data, 'heldout': config.heldout, 'judge.url': config.judge.url}
  missing = [name for name, value in needed.items() if not value]
  if missing:
    raise ValueError(f'{", ".join(missing)}: expected a folder, files of prompts to train and to look at, and a server')
  task = task_of(config.data, config.heldout)
  server = _server(config.judge)
  process = jax.process_index()
  cache = workdir / (f'judge.{process}.jsonl' if process else 'judge.jsonl')  # a file has one writer
  workdir.mkdir(parents=True, exist_ok=True)
  judge = ChatJudge(endpoint(server), server.name, cache=str(cache))
  return learn(config, workdir, task, judge)


def _server(judge: JudgeServer) -> Endpoint:
  """The judge's server. Raises ValueError for one that has to be asked for its model and does not answer."""
  key = os.environ.get(judge.key_env, '')
  try:
    return Endpoint(judge.url, judge.name, key=key)
  except RequestFailed as error:
    raise ValueError(f'judge.url={judge.url!r}: {error}') from error


def learn(config: PublishedConfig, workdir: pathlib.Path, task: Task, judge: Callable[[str, Any, Any], str]) -> Outcome:
  """The run itself. judge(prompt, first, second): as of `rl.rewards.pairwise.Pairwise`."""
  place, home = meshes(config)
  size = Size(config.height, config.width, config.tokens or None)
  loaded = load(
    config.model,
    config.paths,
    size,
    rows=config.rows,
    mesh=place,
    home=home.mesh,
    dtype=config.dtype,
    kept=workdir / PROMPTS,
  )
  shown = Gallery(Paths(1, deterministic=True), workdir / 'images', COLUMNS, sheet)
  held = Remembered(shown, workdir / BEFORE)
  return run(
    loaded,
    task,
    workdir=workdir,
    rewards=rewards_of(config, workdir, judge),
    rollout=Paths(config.group, config.seed),
    steps=config.steps,
    max_new=config.paths.count,
    evaluation=Evaluation(held, None, config.eval_queries, COLUMNS),
    page=PAGE,
    claim=config,
    config=config,
  )


def rewards_of(config: PublishedConfig, workdir: pathlib.Path, judge: Callable) -> dict[str, Reward]:
  """The win rate within a group trains; whether held-out images beat those before training is looked at."""
  c = config.compare
  compared = Pairwise(
    judge,
    opponents=c.opponents or None,
    order=c.order,
    decimals=c.decimals,
    patience=c.patience,
    workers=config.judge.workers,
  )
  against = Against(judge, workdir / BEFORE)
  return {
    'preference': Reward(compared, weights=WEIGHTS, group=True, direct=True),
    'against': Reward(_nothing, weights=0.0, right=against, direct=True),
  }


def _nothing(query: Any, image: Any) -> float:
  return 0.0


def task_of(data: Sequence[str], heldout: Sequence[str]) -> Task:
  """The prompts of files. Raises DataError naming file and line for a line without one, ValueError for common ones."""
  train = _prompts(data)
  looked_at = _prompts(heldout)
  both = sorted(set(train) & set(looked_at))
  if both:
    raise ValueError(f'prompt {both[0]!r:.80} is in data and in heldout: expected different ones')
  return questions(train, looked_at)


def _prompts(paths: Sequence[str]) -> list[str]:
  found = []
  for path in paths:
    lines = JsonLines(path)
    for i in range(len(lines)):
      prompt = lines[i].get('prompt')
      if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f'{lines.place(i)}: prompt={prompt!r}: expected a text')
      found.append(prompt)
  return found


def sheet(images: Sequence[Image.Image], columns: int) -> Image.Image:
  """Images of one size by rows."""
  arrays = [np.asarray(image) for image in images]
  return generation.grid([arrays[at : at + columns] for at in range(0, len(arrays), columns)])
