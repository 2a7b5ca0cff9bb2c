"""First-token latency and prefill speed of a Flash model at 0, 50 and 100 % of compressed tiles against the base model.

  python -m bench.perf.flash                                  # a small model over tiles of 448 pixels, one CPU thread
  python -m bench.perf.flash --model=8B-Flash --dtype=bfloat16 --pin=false      # a published size, on an accelerator

Weights are random: time does not depend on them. A run is `internvl.conversation.generate` up to the first token of
one prompt on the host: encoding, routing (decisions included), shortening, projection and prefill. Arms are interleaved
in one process, the minimum of the repeats counts, compilation excluded. Under each time is its arithmetic: FLOPs by
part from the shapes of the weights (`internvl.plan.prefill`), and the speed-up if time followed FLOPs.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from bench.perf.measuring.pinned import pin
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str = field('small', "'small', or the name of a Flash size in internvl.CONFIGS")
  text: int = field(64, 'bytes of the question', low=1)
  tiles: int = field(4, 'tiles of the image, its thumbnail not counted', low=1)
  repeats: int = field(5, 'timed runs of each arm', low=1)
  dtype: Literal['bfloat16', 'float32'] = field('float32', 'of weights and arithmetic')
  pin: bool = field(True, 'one CPU thread, and its seconds; without it, wall-clock seconds of the default device')


def small():
  """A Flash model whose tiles have 256 and 64 tokens, with the FLOPs of its parts in proportions near the 8B's.

  At the 8B's size the language model does about five times the work of the vision tower on a tile.
  """
  import internvl
  from core import decoder
  from internvl import vision
  from internvl.flash import router

  tower = vision.Config(width=128, mlp_width=512, depth=4, heads=4, norm='layer', qkv_bias=True, qk_norm=False)
  language = dataclasses.replace(
    decoder.CONFIGS['tiny'],
    width=512,
    mlp_width=1536,
    depth=8,
    heads=8,
    kv_heads=4,
    head_dim=64,
    max_length=8192,
  )
  return internvl.Config(tower, language, image_token=258, flash=router.Config())


def made(options: Options) -> tuple[Any, Any, Any]:
  """(Flash configuration, random weights, processor over bytes). Raises ValueError for a model that is not Flash."""
  import jax
  import jax.numpy as jnp

  import internvl
  from internvl.inputs.processor_config import ProcessorConfig

  if options.model != 'small' and options.model not in internvl.CONFIGS:
    raise ValueError(f"--model={options.model}: expected 'small' or one of {', '.join(internvl.CONFIGS)}")
  config = small() if options.model == 'small' else internvl.CONFIGS[options.model]
  if config.flash is None:
    raise ValueError(f'--model={options.model}: a base size; expected a Flash size')
  constants = ProcessorConfig(
    image_size=config.vision.image_size,
    tokens_per_tile=config.tokens_per_tile,
    min_tiles=options.tiles,
    max_tiles=options.tiles,
    system='',
    max_length=config.language.max_length,
  )
  processor = internvl.Processor.over_bytes(constants)
  config = dataclasses.replace(config, image_token=processor.image_id)
  # Leaf by leaf: one program that draws all weights of `internvl.init` takes minutes to compile on a CPU.
  dtype = jnp.dtype(options.dtype)
  key = jax.random.key(0)
  draw = lambda s: 0.05 * jax.random.normal(key, s.shape, dtype)
  return config, jax.tree.map(draw, internvl.spec(config)), processor


def prompt(options: Options, processor: Any) -> Any:
  """One question about an image of noise, so that all tiles differ."""
  import numpy as np

  side = processor.config.image_size
  image = np.random.default_rng(0).integers(0, 256, (2 * side, 2 * side, 3), np.uint8)
  messages = [{'role': 'user', 'content': '<image>' + 'x' * options.text}]
  return processor(messages, [image])


def arms(config: Any, params: Any, processor: Any, inputs: Any) -> dict[str, Callable[[], Any]]:
  """Functions to the first token of each arm; each returns the `Routing` of the prompt."""
  from internvl import conversation
  from internvl.flash import router

  def until_first_token(config, params, compression):
    seen = []
    note = lambda prompts, routings: seen.extend(routings)
    options = {'max_new_tokens': 1, 'compression': compression, 'routed': note}
    conversation.generate(params, config, processor, [inputs], **options).rows()
    return seen[0]

  def flash(**rule):
    return dataclasses.replace(config, flash=router.Config(**rule))

  base = dataclasses.replace(config, flash=None)
  base_params = params.replace(compact=None, router=None)
  # Nothing is above the highest score; half of the scores are above the median; all are at least 0.
  none = flash(relative=1.0, absolute=0.0)
  half = flash(relative=0.5, absolute=0.0)
  every = flash(absolute=0.0)
  return {
    'base model': lambda: until_first_token(base, base_params, 'off'),
    'Flash, 0 %': lambda: until_first_token(none, params, 'auto'),
    'Flash, 50 %': lambda: until_first_token(half, params, 'auto'),
    'Flash, 100 %': lambda: until_first_token(every, params, 'absolute'),
  }


def fastest(runs: dict[str, Callable], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
  """Least seconds of each arm over interleaved repeats."""
  times: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(repeats):
    for name, run in runs.items():
      start = clock()
      run()
      times[name].append(clock() - start)
  return {name: min(t) for name, t in times.items()}


def work_of(config: Any, tokens: int, tiles: int, compressed: int, *, is_flash: bool) -> dict[str, float]:
  """FLOPs of each part of a run, as `generate` computes it: padded to buckets of tiles and tokens."""
  from core import mesh
  from core.padding import bucket
  from internvl.flash.routing import tile_bucket
  from internvl.plan import prefill

  m = config if is_flash else dataclasses.replace(config, flash=None)
  parts = prefill.parts(m, batch=1, tiles=tile_bucket(tiles), tokens=bucket(tokens))
  place = mesh.make(devices=_one_device())
  done = {part.name: prefill.flops(part, place) for part in parts}
  if not compressed:
    done.pop('compact projector', None)  # without a compressed tile only the full projector runs
  return {name: flops for name, flops in done.items() if flops}


def _one_device() -> list:
  import jax

  return jax.devices()[:1]


def lines(config: Any, inputs: Any, routings: dict, seconds: dict[str, float]) -> list[str]:
  """Figures of each arm, and its arithmetic."""
  tiles = len(inputs.pixels)
  full = len(inputs.tokens)
  base_seconds = seconds['base model']
  base_work = 0.0
  out = []
  for name, taken in seconds.items():
    routing = routings[name]
    tokens = full - routing.saved
    work = work_of(config, tokens, tiles, int(routing.compressed.sum()), is_flash=name != 'base model')
    total = sum(work.values())
    base_work = base_work or total
    parts = [f'{part} {flops / 1e9:.1f}' for part, flops in work.items()]
    shares = ', '.join(parts)
    out.append(
      f'{name}: {int(routing.compressed.sum())} of {tiles} tiles compressed, {tokens} of {full} tokens; first token '
      f'{taken * 1e3:.0f} ms ({base_seconds / taken:.2f}x); {tokens / taken:.0f} tokens/s fed, '
      f'{full / taken:.0f} tokens/s of the uncompressed prompt'
    )
    out.append(f'  GFLOPs: {shares}; together {total / 1e9:.1f}, {base_work / total:.2f}x fewer than the base model')
  return out


def work(options: Options) -> None:
  """Measures the arms and prints them."""
  if options.pin:
    pin()
  config, params, processor = made(options)
  inputs = prompt(options, processor)
  runs = arms(config, params, processor, inputs)
  routings = {name: run() for name, run in runs.items()}  # compiles
  clock = time.process_time if options.pin else time.perf_counter
  seconds = fastest(runs, options.repeats, clock)
  print(
    f'{options.model}, {options.dtype}, {_one_device()[0].device_kind}; least of {options.repeats} runs of each, '
    f'{"CPU" if options.pin else "wall-clock"} seconds; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores'
  )
  for line in lines(config, inputs, routings, seconds):
    print(line)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
