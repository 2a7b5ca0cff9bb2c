"""Talks with an InternVL checkpoint about images and videos.

    python -m internvl.chat --model=FOLDER --image=a.png --prompt='What is this?'
    python -m internvl.chat --model=FOLDER --image=a.png            # a conversation, one line a turn
    echo 'What is this?' | python -m internvl.chat --model=FOLDER --image=a.png

FOLDER is a checkpoint as published (either layout), or the workdir of a finished training run.
In a conversation, /image PATH and /video PATH add to the next turn, and /new starts afresh.
"""

import contextlib
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from core.launch import command


def define(values: flags.FlagValues) -> None:
  """The program's flags."""
  text = lambda name, default, meaning: flags.DEFINE_string(name, default, meaning, flag_values=values)
  number = lambda name, default, meaning, low, high=None: flags.DEFINE_float(
    name, default, meaning, low, high, flag_values=values
  )
  text('model', None, 'folder of a checkpoint, or workdir of a training run')
  flags.DEFINE_multi_string('image', [], 'image file; may be repeated', flag_values=values)
  flags.DEFINE_multi_string('video', [], 'video file or folder of frames; may be repeated', flag_values=values)
  text(
    'prompt',
    None,
    'the question; <image> and <video> in it mark where media go. Without it, lines are read '
    'from the terminal or standard input',
  )
  text('system', None, "system text, instead of the checkpoint's own; '' for none")
  flags.DEFINE_bool('thinking', False, 'reason before answering; goes with --temperature=0.6', flag_values=values)
  flags.DEFINE_integer('max_new_tokens', 512, 'longest answer, in tokens', 1, flag_values=values)
  number('temperature', 0.0, '0 takes the likeliest token each time', 0.0)
  number('top_p', 1.0, 'sample among the likeliest tokens of this total probability', 0.0, 1.0)
  flags.DEFINE_integer('seed', 0, 'of sampling', flag_values=values)
  flags.DEFINE_enum(
    'dtype',
    None,
    ['bfloat16', 'float32'],
    'of weights and arithmetic; by default bfloat16, and float32 on a CPU',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'int8', False, "the language model's matrices in 8 bits: half the memory of bfloat16", flag_values=values
  )
  for axis, meaning in (
    ('data', 'spread weights over'),
    ('expert', 'spread experts over'),
    ('model', 'split matrices over'),
  ):
    flags.DEFINE_integer(f'mesh.{axis}', 1, f'devices to {meaning}', 1, flag_values=values)
  flags.DEFINE_bool('help', False, 'show this', short_name='h', flag_values=values)


def folder(path: str) -> pathlib.Path:
  """The checkpoint folder that `path` is or, as a run's workdir, has. Raises ValueError when it is neither."""
  root = pathlib.Path(path)
  if not root.is_dir():
    raise ValueError(f'--model={path}: no such folder')
  for candidate in (root / 'model', root):
    if (candidate / 'config.json').is_file() and any(candidate.glob('*.safetensors*')):
      return candidate
  if (root / 'checkpoints').is_dir():
    raise ValueError(f'--model={path}: this run has not finished: it has no model/ yet')
  raise ValueError(f'--model={path}: holds no checkpoint (config.json and .safetensors files)')


class Session:
  """A conversation that grows turn by turn; what is not answered is not kept."""

  def __init__(self, processor, answer, system: str | None):
    """answer: (messages, images, videos) -> pieces of text."""
    self.processor, self.answer, self.system = processor, answer, system
    self.images, self.videos = [], []  # loaded, waiting for the next turn
    self.reset()

  def reset(self) -> None:
    self.messages = [] if self.system is None else [{'role': 'system', 'content': self.system}]
    self.seen = [], []

  def add_image(self, path: str) -> None:
    from internvl.inputs import tiles

    self.images.append(tiles.load_image(path))

  def add_video(self, path: str) -> None:
    from internvl.inputs import video

    self.videos.append(video.load_frames(path, self.processor.config.video_frames, video.uniform))

  def turn(self, text: str) -> tuple[list, list, list]:
    """(messages, images, videos) of the conversation with one more user turn."""
    content = text
    if not any(mark in text for mark in ('<image>', '<video>')):
      media = [{'type': 'image'}] * len(self.images) + [{'type': 'video'}] * len(self.videos)
      content = [*media, {'type': 'text', 'text': text}]
    messages = [*self.messages, {'role': 'user', 'content': content}]
    return messages, self.seen[0] + self.images, self.seen[1] + self.videos

  def say(self, text: str) -> None:
    """Answers `text` on standard output."""
    messages, images, videos = self.turn(text)
    said = ''
    for piece in self.answer(messages, images, videos):
      print(piece, end='', flush=True)
      said += piece
    print()
    self.messages = [*messages, {'role': 'assistant', 'content': said}]
    self.seen, self.images, self.videos = (images, videos), [], []

  def read(self, line: str) -> None:
    """One line of the user: a command or a turn."""
    command, _, rest = line.strip().partition(' ')
    if command == '/new':
      self.reset()
    elif command in ('/image', '/video'):
      {'/image': self.add_image, '/video': self.add_video}[command](rest.strip())
    elif command:
      self.say(line.strip())


def load(f: flags.FlagValues, path: pathlib.Path):
  """(config, params, mesh or None) as the flags ask."""
  import jax

  import internvl
  from core import mesh, params

  sizes = {axis: f[f'mesh.{axis}'].value for axis in ('data', 'expert', 'model')}
  place = mesh.make(**sizes, devices=jax.devices()[: sizes['data'] * sizes['expert'] * sizes['model']])
  place = place if place.size > 1 else None
  dtype = f.dtype or ('float32' if jax.default_backend() == 'cpu' else 'bfloat16')
  config, weights = internvl.load(path, mesh=place, dtype=dtype)
  if f.int8:
    weights = params.map_weights(
      lambda _, w: jax.jit(params.to_int8)(w), weights, r'language\.blocks\.(attn\.[qkvo]|mlp\.(gate|up|down))'
    )
  return config, internvl.for_decoding(weights), place


def serve(f: flags.FlagValues, _) -> int:
  """Everything after the flags. Raises ValueError or OSError with one clear line."""
  from internvl.inputs.processor import Processor

  path = folder(f.model)
  session = Session(Processor.load(path), None, f.system)
  for image in f.image:  # files are looked at before gigabytes of weights are
    session.add_image(image)
  for video in f.video:
    session.add_video(video)
  if f.prompt is not None:
    session.processor(*session.turn(f.prompt), thinking=f.thinking)
  import jax

  import internvl

  config, params, place = load(f, path)
  options = {
    'max_new_tokens': f.max_new_tokens,
    'temperature': f.temperature,
    'top_p': f.top_p,
    'seed': f.seed,
    'thinking': f.thinking,
    'stream': True,
  }
  session.answer = lambda messages, images, videos: internvl.chat(
    params, config, session.processor, messages, images=images, videos=videos, **options
  )
  with jax.set_mesh(place) if place else contextlib.nullcontext():
    if f.prompt is not None:
      session.say(f.prompt)
    elif sys.stdin.isatty():
      converse(session)
    else:
      for line in sys.stdin:
        session.read(line)
  return 0


def converse(session: Session) -> None:
  """The loop on a terminal, where an error ends a turn and not the program."""
  import readline  # noqa: F401 - gives input() its line editing

  while True:
    try:
      line = input('> ')
    except EOFError:
      return print()
    try:
      session.read(line)
    except (ValueError, OSError) as error:
      print(f'error: {error}', file=sys.stderr)


def check(f: flags.FlagValues, rest: Sequence[str]) -> None:
  """Raises flags.Error, in one line, for what cannot be."""
  if rest:
    raise flags.Error(f'{rest[0]!r}: expected only flags')
  if not f.model:
    raise flags.Error('--model=FOLDER is needed; see --help')
  if f.top_p == 0:
    raise flags.Error('--top_p=0: expected a number above 0')
  if f.thinking and f.system is not None:
    raise flags.Error('--thinking brings its own system text: give either it or --system')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status: 0, 1 for an error or 2 for bad flags."""
  return command.run(argv, __doc__, define=define, check=check, work=serve)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
