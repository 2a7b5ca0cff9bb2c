"""What `python -m core.serve` runs: all input is checked before weights are loaded and programs are compiled."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from core.launch.devices import mesh_of
from core.serving import process, server
from core.serving.admission import Capacity
from core.serving.chat import http
from core.serving.chat.asked import MOST_TOP
from core.serving.chat.model import Served, TextModel, Words
from core.serving.chat.options import TOKEN, Options
from core.serving.chat.service import Service
from core.serving.chat.worker import Worker


def run(options: Options) -> int:
  """Serves a decoder as the options say; the exit status."""
  from core import decoder
  from core.engine import Engine
  from core.files import generation, store
  from core.files.tokenizers import load_tokenizer

  folder = store.folder(options.model)
  tokenizer = load_tokenizer(folder)
  stops = generation.ends(folder, tokenizer.eos_token_id)
  defaults = generation.sampling(folder)

  @contextlib.contextmanager
  def loaded() -> Iterator[tuple[Served, Engine]]:
    place = mesh_of(options.mesh)
    config, params = decoder.load(folder, mesh=place, dtype=dtype_of(options))
    sizes = dataclasses.asdict(options.engine)
    engine = Engine(params, config, **sizes, text=text_of(tokenizer), mesh=place, top_logprobs=MOST_TOP)
    tokens = tokens_of(options, config.max_length)
    words = Words(tokenizer, vocab=config.vocab, stops=stops, tokens=tokens)
    yield TextModel(name_of(options), words, defaults), engine

  return serve(options, loaded)


def serve(
  options: Options,
  loaded: Callable[[], Any],
  *,
  routes: Callable[[Service], list] = lambda service: [],
  open_paths: Sequence[str] = (),
) -> int:
  """Serves until SIGTERM; loaded: a context with (the model, its engine). Raises what ended the engine's thread."""
  listening = process.listening(
    host=options.host,
    port=options.port,
    token=os.environ.get(TOKEN, ''),
    required=options.token == 'required',
    variable=TOKEN,
  )
  bounds = server.Bounds(
    connections=options.connections,
    requests=options.connections,
    body_bytes=options.body,
    buffered_bytes=max(options.body, server.Bounds.buffered_bytes),
    drain_seconds=options.drain,
  )
  with listening as (sock, token), loaded() as (model, engine), Worker(engine, stopped=process.stop) as worker:
    capacity = Capacity(options.engine.slots + options.queue)
    service = Service(model, worker, capacity=capacity, seconds=options.seconds)
    app = http.application(service, routes(service))
    where = {'host': options.host, 'names': options.names}
    process.run(app, sock, token=token, bounds=bounds, open_paths=open_paths, **where)
  if worker.error is not None:
    raise worker.error
  return 0


def name_of(options: Options) -> str:
  """The model's name for clients."""
  return options.name or pathlib.Path(options.model).resolve().name


def dtype_of(options: Options) -> str:
  """Of weights and arithmetic."""
  import jax

  return options.dtype or ('float32' if jax.default_backend() == 'cpu' else 'bfloat16')


def tokens_of(options: Options, context: int) -> int:
  """Tokens that a prompt and its response have at most: the context's, or what fits the pages alone."""
  return min(context, options.engine.pages * options.engine.page_size)


def text_of(tokenizer: Any) -> Callable[[Sequence[int]], str]:
  """What the engine needs for stop strings."""
  return lambda ids: tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
