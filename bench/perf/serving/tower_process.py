"""One process of an arm of `bench.perf.serving.towers`: `arm` serves and measures, `vision` is its vision service.

  python -m bench.perf.serving.tower_process arm|vision NAME '{"requests": 32, …}'

Prints one line of JSON.
"""

import asyncio
import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench.perf.serving import towers
from bench.perf.serving.options import ARMS, Arm, Towers

KEY = b'bench'
SIDE, TILE_TOKENS = 224, 64  # pixels a side and image tokens of a tile


class Model:
  """A small InternVL: configuration, random weights, a processor over bytes, and its tiles."""

  def __init__(self, options: Towers, arm: Arm):
    import jax
    import jax.numpy as jnp

    import internvl
    from core import mesh
    from internvl.features import Images

    self.processor = _processor(options)
    self.config = _config(arm, self.processor.image_id)
    key = jax.random.key(0)
    self.params = jax.tree.map(
      lambda s: 0.05 * jax.random.normal(key, s.shape, jnp.float32), internvl.spec(self.config)
    )
    self.mesh = mesh.make()
    self.images = Images(self.params, self.config, self.mesh, spare=0)  # every request is encoded again
    self.images.warm()
    self.prompts = _prompts(options, self.processor)

  @property
  def normalisation(self) -> tuple:
    """Mean and standard deviation of pixels."""
    return self.processor.config.mean, self.processor.config.std


def _config(arm: Arm, image_token: int) -> Any:
  import internvl
  from core import decoder
  from internvl import vision
  from internvl.flash import router

  tower = vision.Config(
    width=128, mlp_width=512, depth=4, heads=4, norm='layer', qkv_bias=True, qk_norm=False, image_size=SIDE
  )
  sizes = {'width': 256, 'mlp_width': 768, 'depth': 4, 'heads': 4, 'kv_heads': 2, 'head_dim': 64, 'max_length': 2048}
  language = dataclasses.replace(decoder.CONFIGS['tiny'], **sizes)
  rule = None
  if arm.flash:
    rule = router.Config(relative=0.5, absolute=0.0)
  return internvl.Config(tower, language, image_token=image_token, flash=rule)


def _processor(options: Towers) -> Any:
  import internvl
  from internvl.inputs.processor_config import ProcessorConfig

  tiles = {'min_tiles': options.tiles, 'max_tiles': options.tiles}
  constants = ProcessorConfig(image_size=SIDE, tokens_per_tile=TILE_TOKENS, system='', max_length=2048, **tiles)
  return internvl.Processor.over_bytes(constants)


def _prompts(options: Towers, processor: Any) -> list[Any]:
  """Requests about images of noise, all different."""
  import numpy as np

  random = np.random.default_rng(0)
  turn = [{'role': 'user', 'content': '<image>What is it?'}]
  images = random.integers(0, 256, (options.requests, 2 * SIDE, 2 * SIDE, 3), np.uint8)
  return [processor(turn, [image]) for image in images]


class Known:
  """Where all requests were encoded before: what the language stage does alone."""

  def __init__(self, seen: Sequence[Any]):
    self._seen = {id(found.inputs): found for found in seen}

  async def see(self, x: Any, compression: Any) -> Any:
    """As in `internvl.serving.vision.Vision`; x: a prompt that was seen before."""
    return self._seen[id(x)]


async def serve_vision(options: Towers, arm: Arm) -> None:
  """The vision service; prints its port and serves until it is killed."""
  from core.serving import server
  from internvl.serving.vision import Encoder
  from internvl.serving.vision_server import VisionServer

  model = Model(options, arm)
  with Encoder(model.images, model.config) as encoder, server.listen('127.0.0.1', 0) as sock:
    service = VisionServer(encoder, model.config, KEY, dtype='float32', normalisation=model.normalisation)
    print(json.dumps({'port': sock.getsockname()[1]}), flush=True)
    await service.serve(sock)


async def measure(options: Towers, arm: Arm, name: str) -> dict[str, float]:
  """Requests a second of an arm, the seconds of its stages, and what they predict."""
  from core.serving.chat.worker import Worker
  from internvl.serving.vision import Encoder, Separate

  model = Model(options, arm)
  with Encoder(model.images, model.config) as encoder:
    local = Separate(encoder, model.processor.image_id)
    seen = [await local.see(x, None) for x in model.prompts]
  inputs = [found.inputs for found in seen]
  known = Known(seen)
  fastest = {'vision': 0.0, 'language': 0.0, 'both': 0.0}
  async with contextlib.AsyncExitStack() as stack:
    engine = _engine(options, arm, model)
    worker = stack.enter_context(Worker(engine))
    where = await _where(options, arm, name, model, stack)
    await rate(options, where, worker, model.prompts[: options.in_flight])  # first calls
    for _ in range(options.repeats):
      rates = {
        'vision': await _vision_rate(options, arm, model, where),
        'language': await rate(options, known, worker, inputs),
      }
      engine.scheduler.cache.clear()  # no request may find its own pages
      rates['both'] = await rate(options, where, worker, model.prompts)
      engine.scheduler.cache.clear()
      fastest = {stage: max(fastest[stage], found) for stage, found in rates.items()}
  vision = 1 / fastest['vision']
  language = 1 / fastest['language']
  predicted = 1 / (vision + language if arm.coupled else max(vision, language))
  return {'rate': fastest['both'], 'vision': vision, 'language': language, 'predicted': predicted}


def _engine(options: Towers, arm: Arm, model: Model) -> Any:
  from core.engine import Engine
  from internvl.serving.vision import Precomputed

  features = model.images if arm.coupled else Precomputed(model.config, spare=0)
  sizes = {'slots': options.in_flight, 'pages': 4096, 'page_size': 16, 'segment': 4, 'chunk': 256}
  return Engine(model.params.language, model.config.language, **sizes, features=features, mesh=model.mesh)


async def _vision_rate(options: Towers, arm: Arm, model: Model, where: Any) -> float:
  """Requests a second of the vision stage alone, as the arm uses it.

  Coupled it encodes one request after the other, and a service those that wait together.
  """
  start = time.monotonic()
  if arm.coupled:
    for x in model.prompts:
      model.images.features(list(x.pixels), x.tile_tokens.tolist())
  else:
    left = iter(model.prompts)

    async def client() -> None:
      for x in left:
        await where.see(x, None)

    await asyncio.gather(*(client() for _ in range(options.in_flight)))
  return len(model.prompts) / (time.monotonic() - start)


async def _where(options: Towers, arm: Arm, name: str, model: Model, stack: contextlib.AsyncExitStack) -> Any:
  """Where the arm encodes its tiles: here, or in a process that is started for it."""
  from internvl.serving.remote import Remote
  from internvl.serving.vision import Coupled

  if arm.coupled:
    return Coupled(model.images)
  process = subprocess.Popen(towers.arguments('vision', name, options), stdout=subprocess.PIPE, text=True)
  stack.callback(process.wait)
  stack.callback(process.kill)
  port = json.loads(await asyncio.to_thread(process.stdout.readline))['port']
  fixed = {'dtype': 'float32', 'image_id': model.processor.image_id, 'normalisation': model.normalisation}
  remote = Remote(('127.0.0.1', port), KEY, model.config, **fixed)
  stack.push_async_callback(remote.close)
  return remote


async def rate(options: Towers, where: Any, worker: Any, xs: Sequence[Any]) -> float:
  """Requests a second of a closed loop."""
  from core.engine import Request

  left = iter(enumerate(xs))

  async def client() -> None:
    for number, x in left:
      found = await where.see(x, None)
      request = Request(found.inputs.tokens.tolist(), options.tokens, seed=number, media=found.media)
      async for _ in worker.generate([request], seconds=600.0):
        pass

  start = time.monotonic()
  await asyncio.gather(*(client() for _ in range(options.in_flight)))
  return len(xs) / (time.monotonic() - start)


def main(role: str, name: str, sizes: str) -> None:
  """Plays a role of an arm."""
  given = json.loads(sizes)
  options = Towers(**given | {'numbers': tuple(given['numbers'])})
  arm = ARMS[name]
  towers.place(options, arm, role)
  if role == 'vision':
    asyncio.run(serve_vision(options, arm))
  else:
    print(json.dumps(asyncio.run(measure(options, arm, name))), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
