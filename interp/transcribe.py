"""Transcribes recordings with Whisper.

    python -m interp.transcribe --model=FOLDER talk.mp3 interview.flac
    python -m interp.transcribe --model=FOLDER --format=srt --format=json --words --out=subtitles talk.mp3

FOLDER is a checkpoint of Hugging Face or CTranslate2. For OpenAI's .pt file, --tokenizer names a folder with
tokenizer.json. Without --out the text of each recording is printed; with it, each format becomes a file in that folder.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Literal

from core.launch import command
from core.launch.fields import field

FORMATS = ('txt', 'srt', 'vtt', 'json')


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  audio: tuple[str, ...] = field((), 'recordings: wav, mp3, flac, ogg, …', positional=True)
  model: str | None = field(None, "folder of a checkpoint, or OpenAI's .pt file")
  tokenizer: str | None = field(None, 'folder with tokenizer.json, if the checkpoint has none')
  out: str | None = field(None, 'folder for the files; without it, text is printed')
  format: tuple[Literal['txt', 'srt', 'vtt', 'json'], ...] = field((), 'of the files, txt by default', repeated=True)
  language: str | None = field(None, 'code such as en or zh; by default that of the first 30 seconds')
  task: Literal['transcribe', 'translate'] = field('transcribe', 'translate: into English')
  rules: Literal['openai', 'transformers'] = field('openai', 'set of decoding rules')
  words: bool = field(False, 'times of words, in json')
  timestamps: bool = field(True, 'segments with times; without, one segment for 30 seconds')
  previous: bool = field(True, 'earlier text is the prompt of the next window')
  prompt: str = field('', 'text before the first window: names, spelling, style')
  beams: int = field(1, 'of beam search, 1: greedy', low=1)
  best_of: int = field(1, 'samples at temperatures above 0, of which the likeliest is taken', low=1)
  fallback: bool = field(True, 'decode again at higher temperatures if the text repeats itself or is improbable')
  batch: int = field(1, 'windows decoded at once; needs --notimestamps --noprevious', low=1)
  seed: int = field(0, 'of sampling')
  dtype: Literal['float32', 'bfloat16'] = field('float32', 'of weights and arithmetic')
  quiet: bool = field(False, 'no progress on standard error')

  def __post_init__(self):
    if not self.model:
      raise ValueError('--model=FOLDER is needed')
    if not self.audio:
      raise ValueError('name at least one recording')
    if self.format and not self.out:
      raise ValueError('--format needs --out=FOLDER')
    stems = [pathlib.Path(name).stem for name in self.audio]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if self.out and twice:
      raise ValueError(f'recordings {twice} would be written to the same file')
    self.decoding()

  def decoding(self):
    """The settings of `interp.whisper.transcribe`."""
    from interp.whisper.options import Options as Decoding

    shared = ('language', 'task', 'rules', 'words', 'timestamps', 'previous', 'prompt', 'beams', 'best_of', 'batch')
    values = {name: getattr(self, name) for name in shared}
    temperatures = Decoding().temperatures if self.fallback else (0.0,)
    return Decoding(**values, seed=self.seed, temperatures=temperatures)


def work(options: Options) -> int:
  """Transcribes every recording; one that cannot be read is reported, and the status is then 1."""
  import jax.numpy as jnp

  from core.audio import WRITERS
  from core.files import store
  from interp import whisper

  config, params = whisper.load(options.model, dtype=getattr(jnp, options.dtype))
  processor = whisper.Processor.load(options.tokenizer or options.model)
  failed = 0
  for name in options.audio:
    progress = None if options.quiet else _progress(name)
    try:
      segments = whisper.transcribe(params, config, processor, name, options.decoding(), progress=progress)
    except (OSError, ValueError) as error:
      print(f'\n{error}', file=sys.stderr)
      failed += 1
      continue
    if options.out is None:
      print(WRITERS['txt'](segments), end='')
      continue
    for suffix in options.format or ('txt',):
      text = WRITERS[suffix](segments)
      store.folder(options.out).write(f'{pathlib.Path(name).stem}.{suffix}', [text.encode()])
  return int(failed > 0)


def _progress(name: str):
  """A line on standard error that is rewritten after each window."""

  def show(done: float, total: float) -> None:
    end = '\n' if done >= total else ''
    print(f'\r{name}: {done:.0f} of {total:.0f} s', end=end, file=sys.stderr, flush=True)

  return show


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status: 0, 1 for an error or 2 for bad flags."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
