"""Transcribes recordings with Whisper.

    python -m interp.transcribe --model=FOLDER talk.mp3 interview.flac
    python -m interp.transcribe --model=FOLDER --format=srt --format=json --words --out=subtitles talk.mp3

FOLDER is a checkpoint of Hugging Face or CTranslate2. For OpenAI's .pt file, --tokenizer names a folder with
tokenizer.json. Without --out the text of each recording is printed; with it, each format becomes a file in that folder.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Sequence
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
  batch: int = field(
    1, 'windows decoded at once: of one recording with --notimestamps --noprevious, else of several', low=1
  )
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

  from interp import whisper
  from interp.whisper.decoding.window import Recogniser
  from interp.whisper.transcription import steps

  config, params = whisper.load(options.model, dtype=getattr(jnp, options.dtype))
  processor = whisper.Processor.load(options.tokenizer or options.model)
  recogniser = Recogniser(params, config, processor, options.decoding())
  failed: list[str] = []
  said: dict = {}
  for step in steps(recogniser, _readable(options.audio, config, failed)):
    name = step.recording.name
    said.setdefault(step.recording, []).extend(step.segments)
    if not options.quiet:
      _progress(name, step.done, step.recording.seconds)
    if step.last:
      _write(options, name, said.pop(step.recording))
  return int(bool(failed))


def _readable(names: Sequence[str], config, failed: list[str]) -> Iterator:
  """The recordings that can be read, each opened when it is needed; the names of others are added to `failed`."""
  from interp.whisper.transcription import Recording

  for name in names:
    try:
      yield Recording(name, config)
    except (OSError, ValueError) as error:
      print(f'\n{error}', file=sys.stderr)
      failed.append(name)


def _write(options: Options, name: str, segments: Sequence) -> None:
  """Prints the text of a recording, or writes its files."""
  from core.audio import WRITERS
  from core.files import store

  if options.out is None:
    print(WRITERS['txt'](segments), end='', flush=True)
    return
  for suffix in options.format or ('txt',):
    text = WRITERS[suffix](segments)
    store.folder(options.out).write(f'{pathlib.Path(name).stem}.{suffix}', [text.encode()])


def _progress(name: str, done: float, total: float) -> None:
  """A line on standard error that is rewritten after each window."""
  end = '\n' if done >= total else ''
  print(f'\r{name}: {done:.0f} of {total:.0f} s', end=end, file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status: 0, 1 for an error or 2 for bad flags."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
