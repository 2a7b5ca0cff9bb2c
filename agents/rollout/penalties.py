"""What ranks right rollouts in GRPO-RoC (rStar2-Agent, arXiv 2508.20722): tool errors and the form of the answer.

The paper's penalties are counted on the conversation: status of each call, turns, and what the model itself said. Those
of the released code are counted on the text of the whole response, tool output included.
"""

from collections.abc import Callable

from agents.rollout.protocol import ANSWER, END_ANSWER
from agents.rollout.trajectory import Trace

Penalty = Callable[[Trace], float]


def error_penalty(trace: Trace) -> float:
  """p_err: the share of failed calls among those attempted; 0.5 without any."""
  responses = trace.responses
  if not responses:
    return 0.5
  failed = sum(response.failed for response in responses)
  return failed / len(responses)


def form_penalty(trace: Trace) -> float:
  """p_format: min(1, (answers − 1)/turns) for balanced answer tags in the model's text, else 1."""
  text = '\n'.join(turn.text for turn in trace.turns)
  opened = text.count(ANSWER)
  is_balanced = opened == text.count(END_ANSWER) == _pairs(text)
  if not opened or not is_balanced:
    return 1.0
  return min(1.0, (opened - 1) / len(trace.turns))


def _pairs(text: str) -> int:
  """The number of opening tags with a closing tag after them, without overlap."""
  count = 0
  rest = text
  while True:
    _, opening, rest = rest.partition(ANSWER)
    _, closing, rest = rest.partition(END_ANSWER)
    if not opening or not closing:
      return count
    count += 1


def penalty(trace: Trace) -> float:
  """p_total = p_err + p_format, from 0 (best) to 2."""
  return error_penalty(trace) + form_penalty(trace)


def released_error_penalty(trace: Trace) -> float:
  """p_err of the released code: the share of responses whose text has the word "error" in any case; 0.5 without any.

  It misses failures that do not say so, such as a time-out, and counts output that happens to have the word.
  """
  responses = trace.responses
  if not responses:
    return 0.5
  failed = sum('error' in response.text.lower() for response in responses)
  return failed / len(responses)


def released_form_penalty(trace: Trace) -> float:
  """p_format of the released code: as `form_penalty`, with tool output as part of the text and its count of turns.

  A turn counts when its header and its end mark are both in the response: the first header is in the prompt, and a turn
  that the response budget cut off has no end mark. Without a turn the penalty is 1.
  """
  turns = len(trace.turns) - 1
  if trace.stop == 'length':
    turns -= 1
  parts = []
  for turn in trace.turns:
    parts.append(turn.text)
    parts += [response.text for response in turn.responses]
  text = '\n'.join(parts)
  opened = text.count(ANSWER)
  is_balanced = opened == text.count(END_ANSWER) == _pairs(text)
  if not opened or not is_balanced or turns < 1:
    return 1.0
  return min(1.0, (opened - 1) / turns)


PAPER: tuple[Penalty, Penalty] = (error_penalty, form_penalty)
RELEASED: tuple[Penalty, Penalty] = (released_error_penalty, released_form_penalty)
