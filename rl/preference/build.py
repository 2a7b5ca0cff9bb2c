"""Preference pairs out of a policy's own samples (MMPR, arXiv 2411.10442).

With a known answer, right and well-formed samples are preferred to wrong ones and to those in the wrong form. Without
one, a whole answer is preferred to its first half that the model continued without seeing the image, which makes it
guess (Dropout NTP).
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.conversations import messages
from internvl import Processor
from internvl.inputs.processor import Inputs
from rl.policy import Draw
from rl.preference.records import Pair
from rl.rollout import Sampler, flat


@dataclasses.dataclass(frozen=True)
class Scored:
  """A sampled answer: whether it is right and well-formed, and what was read as its result, if anything."""

  text: str
  right: bool
  formed: bool = True
  result: str | None = None


def correctness_pairs(
  talk: list[dict], images: list[Any], answer: str, samples: Sequence[Scored], *, most: int = 15, seed: int = 0
) -> list[Pair]:
  """Up to `most` pairs of one query, drawn without replacement from all that its samples allow.

  A wrong sample whose result contains the right answer is no negative, since the check may have erred.
  """
  unique = list({s.text: s for s in samples}.values())
  chosen = [s for s in unique if s.right and s.formed]
  wrong = [s for s in unique if not s.right and (not answer or answer not in (s.result or ''))]
  unformed = [s for s in unique if s.right and not s.formed]
  both = list(itertools.product(chosen, wrong + unformed))
  order = np.random.default_rng(seed).permutation(len(both))[:most]
  kind = lambda s: 'format' if s.right else 'correctness'
  return [Pair(talk, images, a.text, b.text, answer, {'kind': kind(b)}) for a, b in (both[i] for i in sorted(order))]


def without_media(talk: Sequence[dict]) -> list[dict]:
  """The conversation with its images and videos, and their marks, taken out."""

  def strip(content):
    if isinstance(content, str):
      for kind in messages.MEDIA:
        content = content.replace(f'<{kind}>\n', '').replace(f'<{kind}>', '')
      return content
    return [part for part in content if part['type'] not in messages.MEDIA]

  return [m | {'content': strip(m['content'])} if m['role'] == 'user' else m for m in talk]


def answer_tokens(processor: Processor, text: str) -> np.ndarray:
  """int32 [T]: what the assistant writes to say `text`, its stop token included."""
  x = processor([{'role': 'user', 'content': ''}, {'role': 'assistant', 'content': text}])
  return x.tokens[x.mask]


def _blind_half(processor: Processor, talk: Sequence[dict], said: np.ndarray) -> Inputs:
  """A prompt without the images that ends with the first half of an answer's tokens."""
  prompt = processor(without_media(talk))
  tokens = np.concatenate([prompt.tokens, said[: len(said) // 2]])
  return dataclasses.replace(with_tile(prompt), tokens=tokens, mask=np.zeros(len(tokens), bool))


def with_tile(x: Inputs) -> Inputs:
  """At least one tile, blank and read by nothing, so that texts alone fit in a batch of images."""
  blank = np.zeros((1, *x.pixels.shape[1:]), x.pixels.dtype)
  return x if len(x.pixels) else dataclasses.replace(x, pixels=blank)


def continuation_pairs(
  sampler: Sampler,
  processor: Processor,
  good: Sequence[tuple[list[dict], list[Any], str]],
  *,
  max_new: int,
  temperature: float = 1.0,
  seed: int = 0,
) -> list[Pair]:
  """A pair for each (messages, images, good answer), against its first half continued without the images.

  max_new: most tokens of a continuation. A continuation that arrives at the same text gives no pair.
  """
  said = [answer_tokens(processor, text) for _, _, text in good]
  prompts = [_blind_half(processor, talk, s) for (talk, _, _), s in zip(good, said)]
  draw = Draw(max_new, temperature)
  rest = flat.sample(sampler, prompts, draw, seeds=range(seed, seed + len(good)))
  pairs = []
  for row, ((talk, images, text), s) in enumerate(zip(good, said)):
    rejected = processor.answer([*s[: len(s) // 2], *rest[row][0].tokens])
    if rejected != text.strip():
      pairs.append(Pair(talk, images, text, rejected, '', {'kind': 'continuation'}))
  return pairs
