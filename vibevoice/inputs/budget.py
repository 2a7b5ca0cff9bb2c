"""What speaking a script takes of the context and of memory, before any weight is read."""

import dataclasses
from collections.abc import Callable, Sequence

from core import decoder
from vibevoice.config import SAMPLE_RATE, Config
from vibevoice.inputs import prompt, script

FRAMES_PER_TOKEN = 2  # of speech for a token of the script, as the paper estimates
BRANCHES = 2  # guidance keeps keys and values of a second context


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
  """A script in a context of `context` positions, one for each token and frame.

  prompt: tokens before the speech, frames of voices included. voices: those frames. expected: frames of speech, an
  estimate. fitting: how many utterances from the first on fit with their speech. utterances: of the script.
  cache_bytes: keys and values of a full context, both branches of guidance. frame_seconds: of one frame.
  """

  context: int
  prompt: int
  voices: int
  expected: int
  fitting: int
  utterances: int
  cache_bytes: int
  frame_seconds: float

  @property
  def left(self) -> int:
    """Positions that the prompt leaves for speech; negative if it is too long itself."""
    return self.context - self.prompt

  @property
  def excess(self) -> int:
    """Positions too many, by the estimate; 0 if all fits."""
    return max(0, self.expected - self.left)


def plan(
  lines: Sequence[script.Line],
  voices: Sequence[int],
  encode: Callable[[str], list[int]],
  config: Config,
  *,
  itemsize: int = 2,
) -> Budget:
  """The budget of utterances, given the frames of each voice; itemsize: bytes of a cached number.

  Raises ValueError as `script.numbered` does.
  """
  numbered = script.numbered(lines, len(voices))
  costs = [len(encode(prompt.utterance(line))) for line in numbered]
  built = prompt.build(numbered, voices, encode, config)
  total = len(built.tokens)
  used = total - sum(costs)
  context = config.language.max_length
  fitting = 0
  for cost in costs:
    used += cost * (1 + FRAMES_PER_TOKEN)
    if used > context:
      break
    fitting += 1
  return Budget(
    context=context,
    prompt=total,
    voices=int(built.slots.sum()),
    expected=FRAMES_PER_TOKEN * sum(costs),
    fitting=fitting,
    utterances=len(costs),
    cache_bytes=BRANCHES * context * position_bytes(config.language, itemsize),
    frame_seconds=config.acoustic.hop / SAMPLE_RATE,
  )


def position_bytes(language: decoder.Config, itemsize: int) -> int:
  """Bytes of the keys and values of one position in all layers."""
  return 2 * language.depth * language.kv_heads * language.head_dim * itemsize


def described(budget: Budget) -> str:
  """The budget as lines of text; the last one says what to cut, if anything."""
  b = budget
  minutes = b.frame_seconds / 60
  text = b.prompt - b.voices
  lines = [
    f'prompt: {b.prompt} tokens, {b.voices} of them frames of voices and {text} of text',
    f'speech: about {b.expected} frames, {b.expected * minutes:.1f} minutes; '
    f'{max(b.left, 0)} frames, {max(b.left, 0) * minutes:.1f} minutes fit the context of {b.context}',
    f'caches: {b.cache_bytes / 1e9:.2f} GB when the context is full',
  ]
  if b.excess:
    lines.append(
      f'too long by about {b.excess} frames, {b.excess * minutes:.1f} minutes: '
      f'speak the first {b.fitting} of {b.utterances} utterances, and the rest as a script of its own'
    )
  return '\n'.join(lines)
