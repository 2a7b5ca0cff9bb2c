"""Is the answer right, and is it given in the form that was asked for? Each is a number from 0 to 1."""

from collections.abc import Callable

from rl.rewards.answers import compare
from rl.rewards.extract import boxed_answer, last_box, strip_thoughts

THINK, END_THINK = '<think>', '</think>'


def exact_match(answer: str, reference: str) -> float:
  """1 when the answer is the reference, outer blanks and letter case aside; else 0."""
  return float(answer.strip().casefold() == reference.strip().casefold())


def boxed(answer: str, reference: str, symbolic: Callable[[str, str], bool] | None = None) -> float:
  """1 when the last box of the answer equals the reference (`answers.compare`); a missing box is wrong."""
  found = boxed_answer(answer)
  return float(found is not None and compare(reference, found, symbolic)[0])


def think_format(answer: str) -> float:
  """1 when the answer is one think block and then text with a balanced box; else 0."""
  text = answer.strip()
  once = text.startswith(THINK) and text.count(THINK) == text.count(END_THINK) == 1
  return float(once and last_box(strip_thoughts(text)) is not None)


def answer_and_format(answer: str, reference: str) -> dict[str, float]:
  """The components of `boxed_and_format`: a right box, and the form."""
  return {'answer': boxed(answer, reference), 'format': think_format(answer)}


def boxed_and_format(answer: str, reference: str) -> float:
  """0.9 for a right box and 0.1 for the form: the reward of InternVL3.5's released reinforcement learning."""
  return 0.9 * boxed(answer, reference) + 0.1 * think_format(answer)
