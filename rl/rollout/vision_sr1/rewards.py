"""Rewards of a response in two passes, and the language shortcut rate."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from rl.query import Query
from rl.rewards.answers import compare
from rl.rewards.extract import last_box
from rl.rollout.vision_sr1 import prompts

Channel = Literal['both', 'answer', 'description']
NAMES = ('accuracy', 'format', 'description_accuracy', 'description_format')
_FIRST = re.compile(r'\s*<description>.*?</description>\s*<think>.*?</think>\s*\\boxed\{.*?\}\s*', re.DOTALL)
_SECOND = re.compile(r'<think>.*?</think>\s*\\boxed\{.*?\}\s*', re.DOTALL)
_REASON_ONLY = re.compile(r'\s*<think>.*?</think>\s*\\boxed\{.*?\}\s*', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class TwoPass:
  """A response in two passes: the first, the description in it, and the second ('' where there was none).

  channel: what a trajectory is rewarded for: 'both', or one of the two signals where each has tokens of its own.
  """

  first: str
  described: str = ''
  second: str = ''
  channel: Channel = 'both'

  def __str__(self) -> str:
    return f'{self.first}\n\nfrom the description alone: {self.second}'


def grade(response: str, answer: str) -> float:
  r"""1 if the last balanced box of a response equals the answer; a missing box is wrong, also where the answer is None.

  Letter case does not count in words: the released grader takes `a` for `A`.
  """
  box = last_box(response)
  if box is None:
    return 0.0
  box = box.strip()
  if '\\' not in box:
    box = box.casefold()
    answer = answer.casefold()
  is_equal, _ = compare(answer, box)
  return float(is_equal)


def components(query: Query, response: TwoPass | str) -> dict[str, float]:
  """The four components, each from 0 to 1; those of the other channel are 0. A text is a first pass alone."""
  two = response if isinstance(response, TwoPass) else TwoPass(response)
  values = dict.fromkeys(NAMES, 0.0)
  if two.channel != 'description':
    first = prompts.cleaned(two.first)
    values['accuracy'] = grade(first, query.answer)
    values['format'] = float(_FIRST.fullmatch(first) is not None)
  if two.channel != 'answer' and two.second:
    values['description_accuracy'] = grade(two.second, query.answer)
    values['description_format'] = float(_SECOND.fullmatch(two.second) is not None)
  return values


def reasoned(query: Query, response: TwoPass | str) -> dict[str, float]:
  """The components of a baseline that reasons without a description."""
  first = response.first if isinstance(response, TwoPass) else response
  form = float(_REASON_ONLY.fullmatch(prompts.cleaned(first)) is not None)
  return {**dict.fromkeys(NAMES, 0.0), 'accuracy': grade(prompts.cleaned(first), query.answer), 'format': form}


def right(query: Query, response: TwoPass | str) -> float:
  """1 if the answer of the first pass is right."""
  first = response.first if isinstance(response, TwoPass) else response
  return grade(prompts.cleaned(first), query.answer)


def shortcut_rate(right: Sequence[float], sufficient: Sequence[float]) -> float:
  """The share of all responses that are right although their description does not suffice (language shortcut rate).

  It means nothing without the judge of sufficiency; with the policy itself as judge, `sufficient` is
  description_accuracy.
  """
  is_right = np.asarray(right) == 1
  suffices = np.asarray(sufficient) == 1
  return float(np.mean(is_right & ~suffices))


def self_judged(queries: Sequence[Query], responses: Sequence[TwoPass | str]) -> dict[str, float]:
  """Rates over all responses, the policy being the judge of its descriptions.

  shortcut: see `shortcut_rate`; description: right from the description alone; verbatim: see `verbatim`.
  """
  values = [components(query, response) for query, response in zip(queries, responses)]
  is_right = [value['accuracy'] for value in values]
  suffices = [value['description_accuracy'] for value in values]
  told = [verbatim(query, response) for query, response in zip(queries, responses)]
  return {
    'shortcut': shortcut_rate(is_right, suffices),
    'description': float(np.mean(suffices)),
    'verbatim': float(np.mean(told)),
  }


def verbatim(query: Query, response: TwoPass | str) -> float:
  """1 if the answer occurs word for word in the description: a policy may learn to write it there."""
  described = response.described if isinstance(response, TwoPass) else prompts.description(response)
  answer = query.answer.strip()
  if not answer:
    return 0.0
  return float(re.search(rf'(?<!\w){re.escape(answer)}(?!\w)', described, re.IGNORECASE) is not None)
