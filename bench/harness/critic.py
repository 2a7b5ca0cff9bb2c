"""Rewards for best-of-N: a critic judges every answer step by step (VisualPRM, `bench.harness.best_of_n`)."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.harness import best_of_n
from bench.harness.task import Answer, Example, Task


class Critic:
  """A folder of InternVL weights trained to judge steps.

  protocol: how it is asked, which should be the wording it was trained with; None is ours.
  """

  def __init__(self, path: str, protocol: best_of_n.Protocol | None = None):
    import internvl

    self.name = Path(path).resolve().name
    self._protocol = protocol or best_of_n.Protocol()
    self._config, self._params = internvl.load(path)
    self._processor = internvl.Processor.load(path)

  def __call__(
    self, task: Task, examples: Sequence[Example], given: Mapping[str, Sequence[Answer]]
  ) -> dict[str, list[Answer]]:
    """The answers with a reward each; what has one keeps it, and a failed request has 0."""
    return {
      example.id: self._rewarded(task, example, given[example.id])
      for example in tqdm(examples, desc='judging steps', unit='question')
    }

  def _rewarded(self, task: Task, example: Example, answers: Sequence[Answer]) -> list[Answer]:
    unscored = [a for a in answers if a.reward is None and a.finish != 'failed']
    texts = list(dict.fromkeys(a.text for a in unscored))
    scores = {}
    if texts:
      judged = best_of_n.judge(
        self._params, self._config, self._processor, *question(task.prompt(example)), texts, self._protocol
      )
      scores = {text: judgement.score for text, judgement in zip(texts, judged)}
    reward = lambda a: scores.get(a.text, 0.0) if a.reward is None else a.reward
    return [dataclasses.replace(a, reward=0.0 if a.finish == 'failed' else reward(a)) for a in answers]


def question(messages: Sequence[Mapping]) -> tuple[str, list[Any]]:
  """(text with a mark where each image goes, images) of a prompt's user turns.

  Raises ValueError for a prompt that a critic of images cannot be shown.
  """
  text = []
  images = []
  for turn in messages:
    content = []
    if turn['role'] == 'user':
      content = turn['content']
    for part in [{'type': 'text', 'text': content}] if isinstance(content, str) else content:
      if part['type'] not in ('text', 'image'):
        raise ValueError(f'a part of type {part["type"]!r} of the prompt: a critic takes text and images')
      if part['type'] == 'image':
        images.append(part['image'])
      text.append(best_of_n.without_marks(part['text']) if part['type'] == 'text' else '<image>\n')
  return ''.join(text), images
