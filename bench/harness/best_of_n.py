"""Choosing one of N answers: by majority, or by a critic that judges each step (VisualPRM, arXiv 2503.10291).

N answers   K steps   T tokens   n tiles   S pixels a side
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import decoder, padding
from core.conversations import messages
from internvl import Processor, model
from internvl.inputs.processor import Inputs

_BLANK_LINES = re.compile(r'\n\s*\n')
_MARK = re.compile('<({})>'.format('|'.join(messages.MEDIA)))


@dataclasses.dataclass(frozen=True)
class Protocol:
  """How a critic is asked: turn by turn, one step in each, to say `good` or `bad`.

  A released critic knows the wording it was trained with; `first` has fields {question} and {step}.
  """

  system: str = (
    'You check solutions step by step. The first message gives a question and the first step of a '
    'solution, each later one the next step. Reply "+" if everything up to this step is right and "-" '
    'if anything is wrong; reply nothing else.'
  )
  first: str = 'Question:\n{question}\n\nSolution:\n{step}'
  good: str = '+'
  bad: str = '-'
  most: int = 12


@dataclasses.dataclass(frozen=True)
class Judgement:
  """p(good) of each step of an answer, and their mean, by which answers are ranked."""

  steps: tuple[float, ...]

  @property
  def score(self) -> float:
    """The answer's score, 0 to 1."""
    return sum(self.steps) / len(self.steps)


def steps(answer: str, most: int = 12) -> list[str]:
  """The answer split at blank lines, neighbours joined so that at most `most` are left; always at least one."""
  parts = [part for part in _BLANK_LINES.split(answer.strip()) if part.strip()] or [answer.strip()]
  size = math.ceil(len(parts) / most)
  return ['\n\n'.join(parts[i : i + size]) for i in range(0, len(parts), size)]


def without_marks(text: str) -> str:
  """The text with `<image>` and `<video>` broken up, so that they stand for nothing."""
  return _MARK.sub(r'< \1>', text)


def conversation(question: str, answer: str, protocol: Protocol = Protocol()) -> list[dict]:
  """The turns that judge every step of an answer at once, each reply filled in as `good`.

  `<image>` marks count in the question alone: in a model's words they are broken up.
  """
  plain = [without_marks(step) for step in steps(answer, protocol.most)]
  fields = {'{question}': question, '{step}': plain[0]}
  asked = [re.sub(r'\{question\}|\{step\}', lambda m: fields[m[0]], protocol.first), *plain[1:]]
  talk = []
  if protocol.system:
    talk = [{'role': 'system', 'content': protocol.system}]
  for text in asked:
    talk += [{'role': 'user', 'content': text}, {'role': 'assistant', 'content': protocol.good}]
  return talk


@functools.partial(jax.jit, static_argnames=('config', 'labels'))
def _p_good(params, config, tokens, positions, pixels, at, *, labels):
  """float32 [N, K]: softmax over the two labels of what follows slot at[n, k]."""
  hidden = model.forward(params, config, tokens, pixels=pixels, positions=positions).hidden
  chosen = jnp.take_along_axis(hidden, at[..., None], 1)
  z = decoder.logits(params.language, config.language, chosen)
  return jax.nn.softmax(z[..., jnp.array(labels)], -1)[..., 0]


def judge(
  params: model.Params,
  config: model.Config,
  processor: Processor,
  question: str,
  images: Sequence[Any],
  answers: Sequence[str],
  protocol: Protocol = Protocol(),
) -> list[Judgement]:
  """What the critic thinks of N answers to one question, in one pass over all of their steps.

  Raises ValueError when the labels are not single tokens of the critic's.
  """
  labels = tuple(_label(processor, text) for text in (protocol.good, protocol.bad))
  inputs = [processor(conversation(question, answer, protocol), images) for answer in answers]
  ends = [np.flatnonzero(x.mask & (x.tokens == labels[0])) - 1 for x in inputs]
  tokens, positions, pixels = _pad(inputs, processor.pad_id)
  at = np.zeros((len(inputs), protocol.most), np.int32)
  for row, e in enumerate(ends):
    at[row, : len(e)] = e
  p = np.asarray(_p_good(params, config, tokens, positions, pixels, at, labels=labels))
  judgements = []
  for row, steps in zip(p, ends):
    scores = map(float, row[: len(steps)])
    judgements.append(Judgement(tuple(scores)))
  return judgements


def _label(processor: Processor, text: str) -> int:
  ids = processor.tokenizer.encode(text, add_special_tokens=False)
  if len(ids) != 1:
    raise ValueError(f'label {text!r} is {len(ids)} tokens of the critic: expected one')
  return ids[0]


def _pad(inputs: Sequence[Inputs], pad_id: int):
  """tokens and positions [N, T] padded on the right to a bucket, pixels [N, n, S, S, 3] or None."""
  tokens = padding.batch([x.tokens for x in inputs], fill=pad_id, dtype=np.int32)
  positions = padding.positions([len(x.tokens) for x in inputs], tokens.shape[1])
  pixels = np.stack([x.pixels for x in inputs])  # of one question, so as many tiles in each row
  return tokens, positions, pixels if pixels.shape[1] else None


def best(judgements: Sequence[Judgement]) -> int:
  """The number of the answer of highest score; the first of equals."""
  return max(range(len(judgements)), key=lambda i: judgements[i].score)


def majority(votes: Sequence[Hashable | None]) -> int | None:
  """The number of the first answer with the most frequent vote; None abstains, and if all do there is no choice.

  (Self-consistency, arXiv 2203.11171; `rl.rewards.answers.canonical` makes spellings of a number one vote.)
  """
  counts = collections.Counter(v for v in votes if v is not None)
  if counts:
    return votes.index(max(counts, key=counts.get))
  return None
