"""What `python -m internvl.serve` and `internvl.serve_vision` run: input is checked before weights are loaded."""

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Iterator
from typing import Any

from core.files import generation
from core.launch.devices import mesh_of
from core.serving import process, server
from core.serving.chat import program
from core.serving.chat.asked import MOST_TOP
from core.serving.chat.model import Served, Words
from internvl import model
from internvl.inputs.processor import Processor
from internvl.serving.model import VisionLanguageModel
from internvl.serving.options import VISION_KEY, Options, VisionOptions
from internvl.serving.remote import Remote, parse_address
from internvl.serving.vision import Coupled, Encoder, Precomputed, Separate, Vision


def run(options: Options) -> int:
  """Serves InternVL as the options say; the exit status."""
  from internvl import terminal
  from internvl.serving import page

  folder = terminal.folder(options.model)
  processor = Processor.load(folder)
  key = b''
  if options.vision not in ('coupled', 'separate'):
    key = _key(options)
  defaults = generation.sampling(folder)

  @contextlib.contextmanager
  def loaded() -> Iterator[tuple[Served, Any]]:
    config, params = load(folder, options)
    with placed(options, config, params, processor, key) as (vision, features):
      engine = engine_of(options, config, params, processor, features)
      tokens = min(program.tokens_of(options, config.language.max_length), processor.config.max_length)
      words = Words(processor.tokenizer, vocab=config.language.vocab, stops=processor.stop_ids, tokens=tokens)
      name = program.name_of(options)
      yield VisionLanguageModel(name, processor, words, vision, defaults=defaults, limits=options.limits), engine

  return program.serve(options, loaded, routes=page.routes, open_paths=('/',))


def load(folder: Any, options: Any) -> tuple[model.Config, model.Params]:
  """(config, weights) on the mesh of the options."""
  import internvl

  return internvl.load(folder, mesh=mesh_of(options.mesh), dtype=program.dtype_of(options))


def engine_of(options: Options, config: model.Config, params: model.Params, processor: Processor, features: Any) -> Any:
  """The engine of the language model, compiled."""
  from core.engine import Engine

  return Engine(
    params.language,
    config.language,
    **dataclasses.asdict(options.engine),
    features=features,
    text=program.text_of(processor.tokenizer),
    top_logprobs=MOST_TOP,
    mesh=mesh_of(options.mesh),
  )


@contextlib.contextmanager
def placed(
  options: Options, config: model.Config, params: model.Params, processor: Processor, key: bytes
) -> Iterator[tuple[Vision, Any]]:
  """(where tiles are encoded, the engine's source of features)."""
  from internvl.features import Images

  if options.vision == 'coupled':
    images = Images(params, config, mesh_of(options.mesh))
    yield Coupled(images), images
  elif options.vision == 'separate':
    images = Images(params, config, mesh_of(options.vision_mesh, options.vision_device))
    images.warm()
    with Encoder(images, config) as encoder:
      yield Separate(encoder, processor.image_id), Precomputed(config)
  else:
    remote = Remote(
      parse_address(options.vision),
      key,
      config,
      dtype=program.dtype_of(options),
      image_id=processor.image_id,
      normalisation=(processor.config.mean, processor.config.std),
    )
    yield remote, Precomputed(config)


def run_vision(options: VisionOptions) -> int:
  """Serves a vision tower until SIGTERM; the exit status."""
  from internvl import terminal
  from internvl.features import Images
  from internvl.serving.vision_server import VisionServer

  folder = terminal.folder(options.model)
  processor = Processor.load(folder)
  key = os.environ.get(VISION_KEY, '')
  if not key:
    key = secrets.token_urlsafe(32)
    print(f'{VISION_KEY}={key}', flush=True)
  with server.listen(options.host, options.port) as sock:
    config, params = load(folder, options)
    images = Images(params, config, mesh_of(options.mesh))
    del params
    images.warm()
    with Encoder(images, config) as encoder:
      normalisation = (processor.config.mean, processor.config.std)
      dtype = program.dtype_of(options)
      made = VisionServer(
        encoder, config, key.encode(), dtype=dtype, normalisation=normalisation, pending=options.pending
      )
      host, port = sock.getsockname()[:2]
      print(f'vision service on {host}:{port}', flush=True)
      process.until_told(made.serve(sock))
  return 0


def _key(options: Options) -> bytes:
  key = os.environ.get(VISION_KEY, '')
  if not key:
    raise ValueError(f'--vision={options.vision}: the key of the vision service is needed in {VISION_KEY}')
  return key.encode()
