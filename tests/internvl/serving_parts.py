"""A tiny Flash model behind a server, its vision tower coupled, in a thread, or behind a socket."""

import base64
import contextlib
import functools
import io

import jax
import jax.numpy as jnp
from PIL import Image

from core import mesh
from core.engine import Engine
from core.files.generation import Generation
from core.serving import server
from core.serving.admission import Capacity
from core.serving.chat import http
from core.serving.chat.model import Words
from core.serving.chat.program import text_of
from core.serving.chat.service import Service
from core.serving.chat.worker import Worker
from internvl.features import Images
from internvl.flash import router
from internvl.serving import page
from internvl.serving.messages import Limits
from internvl.serving.model import VisionLanguageModel
from internvl.serving.remote import Remote
from internvl.serving.vision import Coupled, Encoder, Precomputed, Separate
from internvl.serving.vision_server import VisionServer
from tests.core.serving.chat import scripted
from tests.internvl import tiny

KEY = b'shared'
RULE = router.Config(relative=0.5, absolute=0.0)
processor = functools.cache(tiny.processor)


@functools.cache
def model(dtype: str = 'float32'):
  """(config, params) of a Flash model."""
  config, params = tiny.model(processor(), flash=RULE)
  return config, jax.tree.map(lambda w: w.astype(jnp.dtype(dtype)), params)


@functools.cache
def images(dtype: str = 'float32'):
  config, params = model(dtype)
  return Images(params, config, mesh.make(devices=jax.devices()[:1]))


@functools.cache
def engine(dtype: str, coupled: bool):
  """An idle engine; coupled: its thread encodes tiles."""
  config, params = model(dtype)
  features = images(dtype) if coupled else Precomputed(config)
  sizes = {'slots': 4, 'pages': 200, 'page_size': 8, 'segment': 3, 'chunk': 64}
  return Engine(params.language, config.language, features=features, text=text_of(processor().tokenizer), **sizes)


NORMALISATION = (processor().config.mean, processor().config.std)


def vision_server(encoder: Encoder, dtype: str = 'float32', key: bytes = KEY, pending: int = 64) -> VisionServer:
  config, _ = model(dtype)
  return VisionServer(encoder, config, key, dtype=dtype, normalisation=NORMALISATION, pending=pending)


def remote(port: int, dtype: str = 'float32', key: bytes = KEY) -> Remote:
  config, _ = model(dtype)
  address = '127.0.0.1', port
  return Remote(address, key, config, dtype=dtype, image_id=processor().image_id, normalisation=NORMALISATION)


@contextlib.contextmanager
def listening(made: VisionServer, port: int = 0):
  """The port of a vision service that serves in a thread until the context ends, as if it were killed."""
  with server.listen('127.0.0.1', port) as sock, scripted.in_thread(made.serve(sock)):
    yield sock.getsockname()[1]


@contextlib.contextmanager
def placed(kind: str, dtype: str = 'float32'):
  """Where tiles are encoded: 'coupled', 'separate' or 'socket'."""
  config, _ = model(dtype)
  with contextlib.ExitStack() as stack:
    if kind == 'coupled':
      yield Coupled(images(dtype))
      return
    encoder = stack.enter_context(Encoder(images(dtype), config))
    if kind == 'separate':
      yield Separate(encoder, processor().image_id)
      return
    port = stack.enter_context(listening(vision_server(encoder, dtype)))
    yield remote(port, dtype)


@contextlib.contextmanager
def serving(kind: str, dtype: str = 'float32', limits: Limits | None = None):
  """The address of a server up to /v1."""
  config, _ = model(dtype)
  p = processor()
  words = Words(p.tokenizer, vocab=config.language.vocab, stops=p.stop_ids, tokens=1024)
  limits = limits or Limits(images=6, frames=4, pixels=10_000, tiles=20)
  with contextlib.ExitStack() as stack:
    worker = stack.enter_context(Worker(engine(dtype, kind == 'coupled')))
    place = stack.enter_context(placed(kind, dtype))
    served = VisionLanguageModel('tiny', p, words, place, defaults=Generation(temperature=1.0), limits=limits)
    service = Service(served, worker, capacity=Capacity(16), seconds=60.0)
    app = http.application(service, page.routes(service))
    yield stack.enter_context(scripted.running(app, open_paths=('/',)))


def data_url(image, form: str = 'PNG') -> str:
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, form)
  return f'data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}'


def shown(text: str, *numbers: int) -> list[dict]:
  """One user turn with some of the tiny images before a text."""
  parts = [{'type': 'image_url', 'image_url': {'url': data_url(tiny.IMAGES[n])}} for n in numbers]
  return [{'role': 'user', 'content': [*parts, {'type': 'text', 'text': text}]}]
