"""Speaks the scripts of a list of recordings, and prints how far the codec and the speech are from each recording.

    python -m vibevoice.compare --model=FOLDER --data=heldout.jsonl --out=spoken --clips=20

The list is that of `vibevoice.train`. Recordings get the noise that tokenizers are trained with. The folder gets three
wav files a clip (recording, codec, speech) and results.json. mel: mean difference of log10 mel amplitudes over several
windows, on the shorter of the two lengths.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from core.launch import command
from core.launch.fields import field

SHORTEST = 2048  # samples: two of the longest windows of the mel distance


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str | None = field(None, 'folder of a TTS checkpoint')
  data: str | None = field(None, 'JSONL file of {"script", "audio", "voices"}')
  out: str | None = field(None, 'folder for the wav files and results.json')
  clips: int = field(20, 'how many of the first recordings to speak', low=1)
  silence: float = field(0.2, 'as `silence` of vibevoice.train: the recording gets the same silence and fades', low=0.0)
  cfg_scale: float | None = field(None, "guidance, 1 for none; by default the model family's own", low=0)
  steps: int | None = field(None, "solver steps a frame; by default the model family's own", low=1, high=999)
  seed: int = field(0, 'of all noise', low=0)

  def __post_init__(self):
    for name in ('model', 'data', 'out'):
      if not getattr(self, name):
        raise ValueError(f'--{name} is needed')


def distance(recording: Any, made: Any) -> float:
  """Mel distance of two clips float32 [n] and [m], over the shorter length."""
  from core import padding
  from vibevoice.training import reconstruction

  count = min(len(recording), len(made))
  # Few lengths, since each is compiled. Beyond their ends the clips are equal.
  length = padding.bucket(count, SHORTEST)
  pair = [padding.pad(clip[:count], length)[None] for clip in (recording, made)]
  return float(reconstruction.mel_distance(*pair)[0]) * length / count


def through_codec(params: Any, config: Any, recording: Any) -> Any:
  """The samples float32 [n] that an acoustic tokenizer makes of those of a recording."""
  from vibevoice.training import recordings

  means = recordings.vectors(params, config, recording)
  return recordings.decoded(params, config, means)[: len(recording)]


def compare(options: Options) -> None:
  """Everything after the flags. Raises ValueError or OSError with one clear line."""
  import jax.numpy as jnp
  import numpy as np

  import vibevoice
  from core import audio
  from core.training.record import replace
  from vibevoice.config import SAMPLE_RATE
  from vibevoice.training import reconstruction, recordings

  listed = recordings.listed([options.data])[: options.clips]
  processor = vibevoice.Processor.load(options.model)
  config, params = vibevoice.load(options.model, dtype=jnp.float32)
  folder = pathlib.Path(options.out)
  folder.mkdir(parents=True, exist_ok=True)
  sampling = {'cfg_scale': options.cfg_scale, 'steps': options.steps, 'seed': options.seed}
  rows = []
  for i, item in enumerate(listed):
    loaded = recordings.wrapped(audio.load(item.audio, SAMPLE_RATE), options.silence)
    # No tokenizer makes digital silence; the mel distance would be that of the pauses alone.
    recording = recordings.dithered(loaded, np.random.default_rng(i))
    codec = through_codec(params.acoustic, config.acoustic, recording)
    started = time.monotonic()
    speech = vibevoice.synthesize(params, config, processor, item.script, item.voices, **sampling)
    seconds = time.monotonic() - started
    for kind, samples in (('recording', recording), ('codec', codec), ('speech', speech)):
      audio.save_wav(folder / f'{i:04d}-{kind}.wav', samples, SAMPLE_RATE)
    row = {
      'script': item.script,
      'voices': [voice.stem for voice in item.voices],
      'recording_seconds': len(recording) / SAMPLE_RATE,
      'speech_seconds': len(speech) / SAMPLE_RATE,
      'codec_mel': distance(recording, codec),
      'codec_snr': reconstruction.noise_ratio(recording, codec),
      'speech_mel': distance(recording, speech) if len(speech) >= SHORTEST else None,
      'real_time_factor': seconds * SAMPLE_RATE / max(len(speech), 1),
    }
    print(json.dumps(row), flush=True)
    rows.append(row)
    replace(folder / 'results.json', json.dumps(rows, indent=2) + '\n')  # after each clip: a stopped run keeps them


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status: 0, 1 for an error or 2 for bad flags."""
  return command.run(argv, __doc__, Options, compare)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
