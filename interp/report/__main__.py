"""Shows what a Whisper model does with the first 30 seconds of a recording, layer by layer, as one HTML file.

python -m interp.report --model=FOLDER --audio=talk.mp3 --out=report.html
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from core.launch import command
from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str | None = field(None, "folder of a checkpoint, or OpenAI's .pt file")
  tokenizer: str | None = field(None, 'folder with tokenizer.json, if the checkpoint has none')
  audio: str | None = field(None, 'a recording: wav, mp3, flac, ogg, …')
  out: str = field('report.html', 'file to write')
  language: str | None = field(None, 'code such as en or zh; by default the most probable one')

  def __post_init__(self):
    for name in ('model', 'audio'):
      if not getattr(self, name):
        raise ValueError(f'--{name} is needed')
    out = pathlib.Path(self.out)
    if out.suffix.lower() != '.html' or not out.parent.is_dir():
      raise ValueError(f'--out={self.out}: expected an .html file in a folder that exists')


def work(options: Options) -> None:
  """Writes the report and says where."""
  from core import audio
  from interp import report, whisper
  from interp.whisper.config import RATE

  samples = audio.load(options.audio, RATE)
  config, params = whisper.load(options.model)
  processor = whisper.Processor.load(options.tokenizer or options.model)
  found = report.study(params, config, processor, samples, language=options.language)
  report.write(options.out, found, title=pathlib.Path(options.audio).name)
  print(f'{found.answer.text.strip()}\n{options.out}')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status: 0, 1 for an error or 2 for bad flags."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
