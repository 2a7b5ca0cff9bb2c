"""A text encoder without weights: a fixed random vector for each word."""

import dataclasses
import zlib

import numpy as np

from rl.flow.policy.trajectory import FlowPrompt


@dataclasses.dataclass(frozen=True)
class Words:
  """Prompts of at most `length` words. context: the words' vectors, 0 after the last; pooled: a sum of others."""

  width: int
  pooled: int
  length: int = 4

  def __call__(self, text: str) -> FlowPrompt:
    """The encoding of a text. Raises ValueError for one with too many words."""
    words = text.lower().split()
    if len(words) > self.length:
      raise ValueError(f'prompt {text!r:.80} has {len(words)} words: expected at most {self.length}')
    context = np.zeros((self.length, self.width), np.float32)
    pooled = np.zeros(self.pooled, np.float32)
    tokens = np.zeros(self.length, np.int32)
    for place, word in enumerate(words):
      number = zlib.crc32(word.encode())
      rng = np.random.default_rng(number)
      tokens[place] = number % 2**31
      context[place] = rng.normal(size=self.width)
      pooled += rng.normal(size=self.pooled).astype(np.float32)
    return FlowPrompt(text=text, tokens=tokens, context=context, pooled=pooled)
