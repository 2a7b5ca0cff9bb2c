"""Preference pairs out of a policy's own samples (MMPR, arXiv 2411.10442).

With a known answer, right and well-formed samples are preferred to wrong ones and to those in the wrong form. Without
one, a whole response is preferred to its first half continued without the image, for which the policy has to guess
(Dropout NTP).
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.conversations import messages
from rl.policy import Draw, Policy, Prompt
from rl.preference.records import Pair
from rl.rollout import Sampler, flat


@dataclasses.dataclass(frozen=True)
class JudgedSample:
  """A sampled response: whether it is right and well-formed, and the result that was read from it, if any."""

  text: str
  right: bool
  formed: bool = True
  result: str | None = None


def correctness_pairs(
  talk: list[dict], images: list[Any], answer: str, samples: Sequence[JudgedSample], *, most: int = 15, seed: int = 0
) -> list[Pair]:
  """Up to `most` pairs of one query, drawn without replacement from all that its samples allow.

  A wrong sample whose result contains the right answer is not used, since the check may have failed.
  """
  unique = {s.text: s for s in samples}.values()
  chosen = [s for s in unique if s.right and s.formed]
  wrong = [s for s in unique if not s.right and not _may_be_right(s, answer)]
  unformed = [s for s in unique if s.right and not s.formed]
  both = list(itertools.product(chosen, wrong + unformed))
  order = np.random.default_rng(seed).permutation(len(both))
  drawn = order[:most]
  pairs = []
  for i in sorted(drawn):
    good, bad = both[i]
    kind = 'format' if bad.right else 'correctness'
    pairs.append(Pair(talk, images, good.text, bad.text, answer, meta={'kind': kind}))
  return pairs


def _may_be_right(sample: JudgedSample, answer: str) -> bool:
  """Whether the answer is in the result of a sample that counts as wrong."""
  return bool(answer) and answer in (sample.result or '')


def without_media(talk: Sequence[dict]) -> list[dict]:
  """The conversation with its images and videos, and their marks, taken out."""

  def strip(content):
    if isinstance(content, str):
      for kind in messages.MEDIA:
        content = content.replace(f'<{kind}>\n', '').replace(f'<{kind}>', '')
      return content
    return [part for part in content if part['type'] not in messages.MEDIA]

  def without(message):
    if message['role'] != 'user':
      return message
    return message | {'content': strip(message['content'])}

  return [without(message) for message in talk]


def _blind_half(policy: Policy, talk: Sequence[dict], said: np.ndarray) -> Prompt:
  """A prompt without the images that ends with the first half of a response's tokens."""
  prompt = policy.prompt(without_media(talk))
  tokens = np.concatenate([prompt.tokens, _first_half(said)])
  return dataclasses.replace(prompt, tokens=tokens)


def _first_half(tokens: np.ndarray) -> np.ndarray:
  half = len(tokens) // 2
  return tokens[:half]


def continuation_pairs(
  sampler: Sampler,
  good: Sequence[tuple[list[dict], list[Any], str]],
  *,
  max_new: int,
  temperature: float = 1.0,
  seed: int = 0,
) -> list[Pair]:
  """A pair for each (messages, images, good response), against its first half continued without the images.

  max_new: most tokens of a continuation. A continuation that arrives at the same text gives no pair.
  """
  policy = sampler.policy
  said = [policy.response(text) for _, _, text in good]
  prompts = [_blind_half(policy, talk, tokens) for (talk, _, _), tokens in zip(good, said)]
  draw = Draw(max_new, temperature)
  seeds = range(seed, seed + len(good))
  continued = flat.sample(sampler, prompts, draw, seeds=seeds)
  pairs = []
  for (talk, images, text), tokens, (rest,) in zip(good, said, continued):
    rejected = policy.text([*_first_half(tokens), *rest.tokens])
    if rejected.strip() != text.strip():
      pairs.append(Pair(talk, images, text, rejected, '', meta={'kind': 'continuation'}))
  return pairs
