r"""The supervised records of the cold start (arXiv 2508.19652 version 1): messages and images, of three kinds.

    {"messages": [{"role": "user", "content": "<image>…"}, {"role": "assistant", "content": "…"}], "images": ["a.png"]}

Only the assistant's turn is learned. `core.conversations.rows` reads such files, so `internvl.train` does too.
"""

from collections.abc import Callable, Sequence

from core.conversations.rows import Rows
from rl.policy import Policy, Trajectory
from rl.rollout.vision_sr1 import prompts


def see_think(question: str, description: str, thought: str, answer: str, image: str) -> dict:
  """An image, answered in the form of the first pass."""
  said = f'<description>{description}</description><think>{thought}</think>\\boxed{{{answer}}}'
  return _record(f'{prompts.IMAGE}\n{question}\n{prompts.FIRST}', said, [image])


def reasoning(question: str, thought: str, answer: str, image: str) -> dict:
  """An image, answered without a description."""
  return _record(f'{prompts.IMAGE}\n{question}\n{prompts.REASON_ONLY}', _thought(thought, answer), [image])


def caption_reasoner(description: str, question: str, thought: str, answer: str) -> dict:
  """Text alone, in the form of the second pass."""
  (asked,) = prompts.second(description, question)
  return _record(asked['content'], _thought(thought, answer), [])


def _thought(thought: str, answer: str) -> str:
  return f'<think>{thought}</think>\\boxed{{{answer}}}'


def _record(asked: str, said: str, images: Sequence[str]) -> dict:
  turns = [{'role': 'user', 'content': asked}, {'role': 'assistant', 'content': said}]
  return {'messages': turns, 'images': list(images)}


def examples(policy: Policy, rows: Rows) -> Callable[[Sequence[int]], list[Trajectory]]:
  """The records of a file for `rl.learning.supervised.Demonstrations`: numbers cycle through them.

  Raises ValueError, naming the row, for one with a video, and as `Rows`.
  """

  def read(numbers: Sequence[int]) -> list[Trajectory]:
    return [_shown(policy, rows, number % len(rows)) for number in numbers]

  return read


def _shown(policy: Policy, rows: Rows, number: int) -> Trajectory:
  turns, images, videos = rows[number]
  *asked, last = turns
  if videos:
    raise ValueError(f'{rows.where(number)}: has a video; a demonstration may have images only')
  return Trajectory.given(policy.prompt(asked, images), policy.response(last['content']))
