"""Text after a prompt with recordings.

B rows   T tokens   M recordings
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from core import padding
from core.engine.generate import for_decoding, prompted
from core.engine.sampling import Sampling
from interp.qwen2_audio.config import Config, audio_tokens
from interp.qwen2_audio.model import Params, audio, embed


def expanded(config: Config, tokens: Sequence[int], frames: Sequence[int]) -> list[int]:
  """A prompt with the one audio token of each recording repeated for each of its vectors.

  frames: mel frames of its recordings, in reading order. Raises ValueError where their number is another.
  """
  marks = sum(token == config.audio_token for token in tokens)
  if marks != len(frames):
    raise ValueError(f'the prompt has {marks} audio tokens for {len(frames)} recordings; expected one each')
  counts = iter(frames)
  out: list[int] = []
  for token in tokens:
    times = 1
    if token == config.audio_token:
      times = audio_tokens(next(counts))
    out += [token] * times
  return out


def generate(
  params: Params,
  config: Config,
  prompts: Sequence[Sequence[int]],
  mel: np.ndarray,
  frames: Sequence[int],
  *,
  max_new: int,
  stops: Sequence[int],
  temperature: float = 0.0,
  seed: int = 0,
  edit: Callable | None = None,
) -> list[np.ndarray]:
  """The new tokens of each prompt, an end token included.

  prompts: as `expanded` returns them. mel: [M, F, mels] of all recordings, in reading order; frames: of each. edit: as
  in `core.tap`, of audio, prompt and response. Raises ValueError where audio tokens and recordings disagree.
  """
  wanted = sum(audio_tokens(n) for n in frames)
  given = sum(token == config.audio_token for prompt in prompts for token in prompt)
  if wanted != given:
    raise ValueError(f'prompts have {given} audio tokens; the recordings give {wanted}')
  slots = max(map(len, prompts))
  tokens = jnp.asarray(padding.batch(prompts, dtype=np.int32, length=slots))
  positions = padding.positions([len(prompt) for prompt in prompts], slots)
  count = jnp.asarray(frames, jnp.int32)

  def embedded(mel):
    heard, _ = audio(params, config, mel, count, edit=edit)
    return embed(params, config, tokens, heard, count)

  run = jax.jit(embedded)
  made = prompted(
    for_decoding(params.language),
    config.language,
    run(jnp.asarray(mel)),
    positions,
    max_new=max_new,
    sampling=Sampling.of(len(prompts), temperature=temperature, seed=seed),
    stops=stops,
    edit=edit,
  )
  made.advance()
  return made.rows()
