"""A conversation on the terminal, or over lines of standard input: what `python -m internvl.chat` runs."""

import contextlib
import functools
import sys

from core.files import generation, store, tensors
from core.files.store import Folder

MAX_NEW_TOKENS = 512


def folder(path: str) -> Folder:
  """The checkpoint folder that `path` is or, as a run's workdir, has. Raises ValueError when it is neither."""
  root = store.folder(path)
  if root.local is not None and not root.local.is_dir():
    raise ValueError(f'--model={path}: no such folder')
  for candidate in (root / 'model', root):
    if candidate.has('config.json') and any(tensors.SUFFIX in name for name in candidate.names()):
      return candidate
  if 'checkpoints' in root.names():
    raise ValueError(f'--model={path}: this run has not finished: it has no model/ yet')
  raise ValueError(f'--model={path}: holds no checkpoint (config.json and .safetensors files)')


class Session:
  """A conversation that grows turn by turn; what is not answered is not kept."""

  def __init__(self, processor, answer, system: str | None, frames: int | None = None):
    """answer: (messages, images=, videos=) -> pieces of text. frames: of a video; None: the processor's number."""
    self.processor = processor
    self.answer = answer
    self.system = system
    self.frames = processor.config.video_frames if frames is None else frames
    self.images, self.videos = [], []  # loaded, waiting for the next turn
    self.reset()

  def reset(self) -> None:
    self.messages = [] if self.system is None else [{'role': 'system', 'content': self.system}]
    self.seen = [], []

  def add_image(self, path: str) -> None:
    from internvl.inputs import images

    self.images.append(images.load(path))

  def add_video(self, path: str) -> None:
    from internvl.inputs import video

    self.videos.append(video.load_frames(path, self.frames, video.uniform))

  def turn(self, text: str) -> tuple[list, list, list]:
    """(messages, images, videos) of the conversation with one more user turn."""
    content = text
    if not any(mark in text for mark in ('<image>', '<video>')):
      images = [{'type': 'image'}] * len(self.images)
      videos = [{'type': 'video'}] * len(self.videos)
      media = images + videos
      content = [*media, {'type': 'text', 'text': text}]
    messages = [*self.messages, {'role': 'user', 'content': content}]
    return messages, self.seen[0] + self.images, self.seen[1] + self.videos

  def say(self, text: str) -> None:
    """Answers `text` on standard output."""
    messages, images, videos = self.turn(text)
    said = ''
    for piece in self.answer(messages, images=images, videos=videos):
      print(piece, end='', flush=True)
      said += piece
    print()
    self.messages = [*messages, {'role': 'assistant', 'content': said}]
    self.seen = (images, videos)
    self.images = []
    self.videos = []

  def read(self, line: str) -> None:
    """One line of the user: a command or a turn."""
    command, _, rest = line.strip().partition(' ')
    if command == '/new':
      self.reset()
    elif command in ('/image', '/video'):
      {'/image': self.add_image, '/video': self.add_video}[command](rest.strip())
    elif command:
      self.say(line.strip())


def load(options, path: Folder):
  """(config, params, mesh or None) as the options of `internvl.chat` ask."""
  import jax

  import internvl
  from core import params
  from core.launch.devices import mesh_of

  place = mesh_of(options.mesh)
  place = place if place.size > 1 else None
  dtype = options.dtype or ('float32' if jax.default_backend() == 'cpu' else 'bfloat16')
  config, weights = internvl.load(path, mesh=place, dtype=dtype, adapter=options.adapter)
  weights = params.fold(weights)
  if options.int8:
    weights = params.map_weights(
      lambda _, w: jax.jit(params.to_int8)(w), weights, r'language\.blocks\.(attn\.[qkvo]|mlp\.(gate|up|down))'
    )
  return config, internvl.for_decoding(weights), place


def begin(options, path: Folder) -> Session:
  """A session with the files that the options name, read before gigabytes of weights are."""
  from internvl.inputs.processor import Processor

  session = Session(Processor.load(path), None, options.system, options.frames)
  for image in options.image:
    session.add_image(image)
  for video in options.video:
    session.add_video(video)
  if options.prompt is not None:
    session.processor(*session.turn(options.prompt), **reading(options))
  return session


def reading(options) -> dict:
  """How messages are read."""
  return {'thinking': options.thinking, 'max_tiles': options.max_tiles, 'frames': options.frames}


def sampling(options, path: Folder) -> dict:
  """How answers are sampled: by the flags, else by the checkpoint's generation_config.json."""
  stated = generation.read(path)
  names = ('temperature', 'top_p', 'top_k', 'repetition_penalty', 'max_new_tokens')
  given = {name: getattr(options, name) for name in names}
  chosen = {name: getattr(stated, name) if value is None else value for name, value in given.items()}
  chosen['max_new_tokens'] = chosen['max_new_tokens'] or MAX_NEW_TOKENS
  return chosen | {'min_p': stated.min_p, 'seed': options.seed}


def talk(options) -> None:
  """Everything after the flags. Raises ValueError or OSError with one clear line."""
  path = folder(options.model)
  session = begin(options, path)
  import jax

  import internvl
  from internvl.flash import routing

  config, params, place = load(options, path)
  routing.resolve(config, options.compression)  # refused before the first line is read
  chosen = sampling(options, path) | reading(options)
  show = functools.partial(show_routing, session.processor, options.tiles_png)
  session.answer = functools.partial(
    internvl.chat,
    params,
    config,
    session.processor,
    compression=options.compression,
    prefix_cache=internvl.PrefixCache(),
    routed=show,
    stream=True,
    **chosen,
  )
  with jax.set_mesh(place) if place else contextlib.nullcontext():
    if options.prompt is not None:
      session.say(options.prompt)
    elif sys.stdin.isatty():
      converse(session)
    else:
      for line in sys.stdin:
        session.read(line)


def show_routing(processor, png: str | None, prompts, routings) -> None:
  """Says on standard error which tiles of a turn are compressed, and draws them if asked; silent without compression.

  png: the picture's file; written also where no tile is compressed.
  """
  from internvl.flash import overlay

  (prompt,), (routing,) = prompts, routings
  if not len(prompt.pixels):
    return
  if routing.scores is not None or routing.saved:
    print(routing.summary(), file=sys.stderr)
  if png:
    overlay.draw(prompt, routing, processor.config).save(png, 'PNG')


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
