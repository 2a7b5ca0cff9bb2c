"""The answer of a conversation, and whether it is right: exact on numbers, lenient about the place of the answer.

`REWARDS` has the rewards that `agents.train` offers by name.
"""

import re
from collections.abc import Callable

from agents.rollout.protocol import ANSWER, END_ANSWER
from agents.rollout.trajectory import Trace, Turn
from rl.query import Query
from rl.rewards import Reward
from rl.rewards.answers import compare, symbolically_equal
from rl.rewards.answers import warm_up as warm_up_symbolic
from rl.rewards.extract import last_box

_NUMBER = re.compile(r'-?\d[\d,]*(?:\.\d+)?')


def answer(trace: Trace) -> str | None:
  """The last box in the last answer block, else that block, else the last box, else the last number of the last turn.

  Only what the model said is looked at, never the tools' output. None without an answer.
  """
  text = '\n'.join(turn.text for turn in trace.turns)
  end = text.rfind(END_ANSWER)
  start = -1
  if end >= 0:
    start = text.rfind(ANSWER, 0, end)
  block = ''
  if start >= 0:
    block = text[start + len(ANSWER) : end].strip()
  found = last_box(block) or block or last_box(text)
  if found:
    return found
  numbers = []
  if trace.turns:
    numbers = _NUMBER.findall(trace.turns[-1].text)
  if numbers:
    return numbers[-1]
  return None


def reward(trace: Trace, reference: str, symbolic: Callable[[str, str], bool] | None = None) -> float:
  """1 when the answer equals the reference (`rl.rewards.answers.compare`), else 0; nothing else is rewarded."""
  found = answer(trace)
  return float(found is not None and compare(reference, found, symbolic)[0])


def right(query: Query, response: Trace | str) -> float:
  """1 when the answer of a conversation, or of a single text, is right."""
  return reward(_trace(response), query.answer)


def right_symbolic(query: Query, response: Trace | str) -> float:
  """As `right`; what is neither a number nor the same text is compared by Math-Verify."""
  return reward(_trace(response), query.answer, symbolically_equal)


right_symbolic.warm_up = warm_up_symbolic  # loads Math-Verify before a guard's clock runs


def _trace(response: Trace | str) -> Trace:
  if isinstance(response, str):
    return Trace([Turn(response)], 'final')
  return response


REWARDS = {
  'exact': Reward(right, right=right, meaning='1 when the answer of a conversation is right, as a number or as text'),
  'symbolic': Reward(
    right_symbolic,
    right=right_symbolic,
    modules=('math_verify',),
    meaning='as exact; what is neither a number nor the same text is compared by Math-Verify',
  ),
}
