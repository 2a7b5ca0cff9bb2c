"""Whether an answer is right, and whether it has the requested form; each a number from 0 to 1."""

import re
from collections.abc import Callable

from rl.rewards.answers import compare
from rl.rewards.extract import boxed_answer, last_box, strip_thoughts

_WHOLE = re.compile(r'-?[0-9]{1,18}')
THINK = '<think>'
END_THINK = '</think>'


def exact_match(answer: str, reference: str) -> float:
  """1 if the answer equals the reference up to outer blanks and letter case; else 0."""
  return float(answer.strip().casefold() == reference.strip().casefold())


def last_number(answer: str, reference: str) -> float:
  """1 if the last whole number of the answer is the reference; an answer without a number is wrong."""
  numbers = _WHOLE.findall(answer)
  return float(bool(numbers) and int(numbers[-1]) == int(reference))


def boxed(answer: str, reference: str, symbolic: Callable[[str, str], bool] | None = None) -> float:
  """1 if the last box of the answer equals the reference (`answers.compare`); a missing box is wrong."""
  box = boxed_answer(answer)
  if box is None:
    return 0.0
  is_equal, _ = compare(reference, box, symbolic)
  return float(is_equal)


def think_format(answer: str) -> float:
  """1 if the answer is one think block and then text with a balanced box; else 0."""
  text = answer.strip()
  is_one_block = text.startswith(THINK) and text.count(THINK) == text.count(END_THINK) == 1
  has_box = last_box(strip_thoughts(text)) is not None
  return float(is_one_block and has_box)


def answer_and_format(answer: str, reference: str) -> dict[str, float]:
  """The components of `boxed_and_format`: a right box, and the form."""
  return {'answer': boxed(answer, reference), 'format': think_format(answer)}


def boxed_and_format(answer: str, reference: str) -> float:
  """0.9 for a right box and 0.1 for the form: the reward of InternVL3.5's released reinforcement learning."""
  return 0.9 * boxed(answer, reference) + 0.1 * think_format(answer)
