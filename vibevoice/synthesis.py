"""Speech in one call: a script in voices, or a text in a preset voice while it still arrives."""

import pathlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from vibevoice import generation
from vibevoice.config import Config, RealtimeConfig
from vibevoice.generation import realtime, words
from vibevoice.inputs import script as scripts
from vibevoice.inputs import voices as voice_prompts
from vibevoice.inputs.presets import Preset

# (guidance, solver steps) of the published demonstrations.
TTS_DEFAULTS = (1.3, 10)
REALTIME_DEFAULTS = (1.5, 5)


def synthesize(
  params: Any,
  config: Config | RealtimeConfig,
  processor: Any,
  script: Any,
  voices: Sequence[Any] = (),
  *,
  cfg_scale: float | None = None,
  steps: int | None = None,
  seed: int = 0,
  stream: bool = False,
) -> np.ndarray | Iterator[np.ndarray]:
  """Speech float32 [samples] at 24 kHz, not clipped; with `stream`, its frames one by one, each when it is made.

  Args:
    processor: a `Processor`, or for a Realtime model a `RealtimeProcessor`.
    script: its text, a .txt or .json file as a path, or utterances; for Realtime plain text, or pieces that arrive.
    voices: a recording for each speaker in order, a file or float32 [samples] at 24 kHz; none: voices that the model
      makes up. For Realtime one `presets.Preset` or `generation.realtime.Voice`.
    cfg_scale: of classifier-free guidance; by default 1.3, for Realtime 1.5.
    steps: of the solver; by default 10, for Realtime 5.
    seed: of all noise.

  Raises:
    ValueError: a script or voice that cannot be spoken, saying which and why; logits that are not numbers.
    OSError: a file that cannot be read.
  """
  is_tts = isinstance(config, Config)
  scale_default, steps_default = TTS_DEFAULTS if is_tts else REALTIME_DEFAULTS
  options = {
    'scale': scale_default if cfg_scale is None else cfg_scale,
    'steps': steps_default if steps is None else steps,
    'seed': seed,
  }
  if is_tts:
    clips = [voice_prompts.prepare(voice, config, name=f'voice {i}') for i, voice in enumerate(voices, start=1)]
    made = generation.begin(params, config, [processor(_lines(script), clips)], **options)
    frames = _spoken(made, at_once=1 if stream else generation.AT_ONCE)
  else:
    voice = _preset(voices)
    frames = realtime.speech(params, config, voice, words.tokens_of(script, processor.encode), **options)
  if stream:
    return frames
  return np.concatenate([np.zeros(0, np.float32), *frames])


def _spoken(made: generation.Generation, *, at_once: int) -> Iterator[np.ndarray]:
  """The samples [hop] of each frame of the only row."""
  for frame in made.frames(at_once=at_once):
    if frame.spoken[0]:
      yield frame.samples[0]
  if made.state.truncated[0]:
    warnings.warn('the speech is cut: the context is full before the script ends', stacklevel=2)


def _lines(script: str | pathlib.Path | Iterable[scripts.Line]) -> Sequence[scripts.Line]:
  if isinstance(script, pathlib.Path):
    return scripts.load(script)
  if isinstance(script, str):
    return scripts.parse(script)
  return tuple(script)


def _preset(voices: Sequence[Any]) -> realtime.Voice:
  if len(voices) != 1 or not isinstance(voices[0], (Preset, realtime.Voice)):
    kinds = [type(voice).__name__ for voice in voices]
    raise ValueError(f'voices {kinds}: a Realtime model speaks in one voice, a preset')
  (voice,) = voices
  if isinstance(voice, Preset):
    return realtime.voice_of(voice)
  return voice
