"""Frames of VibeVoice on this device: real-time factor, milliseconds by part, and the bytes that a frame must read.

  python -m bench.perf.vibevoice_frame                # 1.5B in bfloat16, one row
  python -m bench.perf.vibevoice_frame --rows=16
  python -m bench.perf.vibevoice_frame --model=tiny   # on a CPU

Random weights, guidance, and tokens that make every step a frame. Whole frames are timed by the clock while they are
read on the host. A part is timed as a chain of calls of a program that holds it alone, so parts do not add up exactly:
the whole frame has no launches between them. Bytes are those of `vibevoice.plan.frame`.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.perf.measuring import report
from core.launch import command
from core.launch.fields import field

AT_ONCE = 16  # frames between two looks of the host, and those that are not timed
PROMPT = 64  # tokens


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str = field('1.5B', 'name of a TTS model in `vibevoice.CONFIGS`')
  rows: int = field(1, 'scripts that are spoken at the same time', low=1)
  frames: int = field(128, 'frames to time', low=1)
  steps: int = field(10, 'solver steps of a frame', low=1)
  calls: int = field(50, 'calls of each part', low=1)
  json: bool = field(False, 'print JSON')


@dataclasses.dataclass(frozen=True)
class Part:
  """A piece of the frame step: step(params, state) gives (next state, result). reads: its bytes by the plan."""

  step: Callable[[Any, Any], tuple[Any, Any]]
  state: Any
  reads: tuple[str, ...]


def seconds_a_frame(options: Options, made: Any) -> float:
  """Of a generation, its first frames and their compilation left out."""
  frames = made.frames(at_once=AT_ONCE)
  for _ in range(AT_ONCE):
    next(frames)
  start = time.perf_counter()
  for _ in frames:
    pass
  return (time.perf_counter() - start) / options.frames


def parts(options: Options, config: Any, params: Any, state: Any) -> dict[str, Part]:
  """The parts of a step after `state`."""
  import jax.numpy as jnp

  from core import decoder
  from vibevoice.diffusion import Guidance, diffusion_head, solver_steps
  from vibevoice.tokenizer import decoder as acoustic
  from vibevoice.tokenizer import encoder as semantic

  hidden = state.embedding
  both = jnp.concatenate([hidden, hidden])[:, None]
  solver = solver_steps(params.head, options.steps)
  guidance = Guidance(scale=jnp.ones(options.rows), negative=hidden)
  latents = jnp.zeros((options.rows, config.head.latent), hidden.dtype)
  samples = jnp.zeros((options.rows, config.acoustic.hop))

  def language(params, cache):
    out = decoder.forward(params.language, config.language, both, positions=cache.length[:, None], cache=cache)
    return out.cache, out.hidden

  def head(params, x):
    x = diffusion_head(params.head, x, hidden, solver, guidance=guidance, eps=config.head.eps)
    return x, ()

  def speak(params, stream):
    z = latents[:, None].astype(jnp.float32)
    samples, stream = acoustic.apply(params.acoustic.decoder, config.acoustic, z, stream)
    return stream, samples

  def hear(params, stream):
    features, stream = semantic.apply(params.semantic.encoder, config.semantic, samples, stream)
    return stream, features

  return {
    'language model': Part(language, state.cache, ('language model', 'caches')),
    'diffusion head': Part(head, latents, ('diffusion head',)),
    'acoustic decoder': Part(speak, state.decoder, ()),
    'semantic encoder': Part(hear, state.encoder, ()),
  }


def seconds_a_call(part: Part, params: Any, calls: int) -> float:
  """Of a part, in a chain of calls that write into the buffers of the call before."""
  import jax

  step = jax.jit(part.step, donate_argnums=1)
  state, result = jax.block_until_ready(step(params, jax.tree.map(jax.numpy.copy, part.state)))
  start = time.perf_counter()
  for _ in range(calls):
    state, result = step(params, state)
  jax.block_until_ready(result)
  return (time.perf_counter() - start) / calls


def floor(options: Options, slots: int) -> dict[str, float]:
  """Bytes that a frame reads, by what they are."""
  from core import mesh
  from vibevoice.plan import frame

  config = frame.Config(options.model, rows=options.rows, slots=slots, steps=options.steps)
  return frame.plan_step(config, mesh.abstract()).counted.hbm


def work(options: Options) -> None:
  """Speaks, times the parts and prints."""
  import jax
  import jax.numpy as jnp

  from vibevoice import generation, model
  from vibevoice.config import SAMPLE_RATE
  from vibevoice.generation import Given
  from vibevoice.inputs.processor import Inputs
  from vibevoice.plan.training import size

  config = size(options.model)
  params = generation.for_decoding(model.init(jax.random.key(0), config, jnp.bfloat16))
  prompt = np.asarray([*range(PROMPT), config.start], np.int32)
  inputs = Inputs(tokens=prompt, slots=np.zeros(len(prompt), bool))
  given = Given(tokens=np.full((options.rows, 1), config.slot, np.int32))
  limit = AT_ONCE + options.frames
  made = generation.begin(params, config, [inputs] * options.rows, steps=options.steps, limit=limit, given=given)
  frame = seconds_a_frame(options, made)
  of_sound = config.acoustic.hop / SAMPLE_RATE
  read = floor(options, made.state.cache.capacity)
  report.show(
    {
      'what': f'{options.model}, {options.rows} rows, {options.steps} steps, on {jax.devices()[0].device_kind}',
      'frame ms': 1e3 * frame,
      'real-time factor of a row': frame / of_sound,
      'seconds of sound a second': options.rows * of_sound / frame,
      'GB read': sum(read.values()) / 1e9,
      'GB/s': sum(read.values()) / 1e9 / frame,
    },
    as_json=options.json,
  )
  for name, part in parts(options, config, params, made.state).items():
    took = seconds_a_call(part, params, options.calls)
    figures = {'what': name, 'ms': 1e3 * took}
    if part.reads:
      figures['GB read'] = sum(read[what] for what in part.reads) / 1e9
    report.show(figures, as_json=options.json)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
