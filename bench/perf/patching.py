"""Patching grids of Whisper: one compiled sweep of ours against torch hooks, on one thread.

    python -m bench.perf.patching --model=FOLDER
    python -m bench.perf.patching --size=base --frames=2

Zero ablation of heads of cross-attention and self-attention in every layer of the decoder at tokens spread over the
text, and of every branch of the encoder at frames spread over the window. Both arms reuse the encoder for patches of
the decoder and score two tokens only. torch runs one patch at a time, and 16 patches a batch. CPU seconds, the least of
the repeats; the grids must be equal. --size draws random weights of a published size. As above, tiny.en takes about
four minutes of one core and base ten; --heads=8 --positions=24 patches the whole grid of base, which takes an hour.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench.perf.measuring import pinned
from bench.perf.measuring.clock import fastest
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.

HEADS = ('z', 'cross_z')
BATCH = 16
ANSWERS = (11, 13)


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str | None = field(None, 'folder of a checkpoint; without it, random weights of --size')
  size: str = field('tiny.en', 'of random weights: a name of interp.whisper.CONFIGS')
  tokens: int = field(24, 'of the text', low=2)
  heads: int = field(4, 'of each attention to patch, at most all', low=1)
  positions: int = field(8, 'tokens to patch, at most all', low=1)
  frames: int = field(4, 'encoder positions to patch', low=1)
  block: int = field(16, 'cells of ours computed at a time', low=1)
  repeats: int = field(1, 'timed runs of each arm', low=1)


@dataclasses.dataclass(frozen=True)
class Problem:
  """What both arms patch: our config and weights, log-mel frames [1, T, mels], text [1, tokens] and the places."""

  config: Any
  params: Any
  mel: Any
  tokens: Any
  heads: tuple[int, ...]
  positions: tuple[int, ...]
  frames: tuple[int, ...]


def problem(options: Options) -> Problem:
  """Of the flags. Raises ValueError for an unknown size."""
  import jax
  import numpy as np

  from interp import whisper

  if options.model:
    config, params = whisper.load(options.model)
  elif options.size in whisper.CONFIGS:
    config = whisper.CONFIGS[options.size]
    params = whisper.init(jax.random.key(0), config)
  else:
    raise ValueError(f'--size={options.size}: expected one of {sorted(whisper.CONFIGS)}')
  rng = np.random.default_rng(0)
  mel = rng.normal(size=(1, config.frames, config.mels)).astype(np.float32)
  tokens = rng.integers(0, 50_000, (1, options.tokens)).astype(np.int32)
  return Problem(
    config=config,
    params=params,
    mel=mel,
    tokens=tokens,
    heads=tuple(range(min(options.heads, config.heads))),
    positions=spread(options.tokens, options.positions),
    frames=spread(config.audio_length, options.frames),
  )


def spread(size: int, count: int) -> tuple[int, ...]:
  """`count` of the numbers below `size`, at most all of them, at equal distances."""
  count = min(count, size)
  return tuple(i * size // count for i in range(count))


def ours(p: Problem, *, block: int) -> dict:
  """Functions that compute the decoder's grid [2, L, N, P] and the encoder's [2, L, 1, F] of logit differences."""
  import jax
  import jax.numpy as jnp

  from interp import patch
  from interp.whisper import decoder, model
  from interp.whisper.patching import BRANCHES, DecoderLogits, encoder_logits

  c = p.config
  answers = jnp.asarray(ANSWERS)

  @jax.jit
  def read(mel, tokens):
    encoded, _ = model.encode(p.params, c, mel)
    keys = decoder.cross_keys(p.params.decoder, encoded)
    return keys, decoder.forward(p.params.decoder, c, tokens, keys, keep=('resid_in', *HEADS)).kept

  def decoder_grid():
    keys, kept = read(p.mel, p.tokens)
    axes = patch.Axes(HEADS, tuple(range(c.decoder_depth)), p.heads, p.positions)
    inputs = (p.params.decoder, keys, kept['resid_in'], answers)
    found = patch.sweep(DecoderLogits(c), axes, patch.zeros(kept), *inputs, block=block, resume=True)
    return found[..., 0, 0] - found[..., 0, 1]

  def encoder_grid():
    axes = patch.Axes(BRANCHES, tuple(range(c.encoder_depth)), positions=p.frames)
    found = encoder_logits(p.params, c, p.mel, p.tokens, answers, axes)
    return found[..., 0, 0] - found[..., 0, 1]

  return {'decoder': decoder_grid, 'encoder': encoder_grid}


def converted(p: Problem):
  """The same weights as a model of transformers."""
  import tempfile

  from transformers import WhisperForConditionalGeneration

  from interp import whisper

  with tempfile.TemporaryDirectory() as folder:
    whisper.save(folder, p.config, p.params)
    net = WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation='sdpa')
  return net.eval()


class Torch:
  """Patching by hooks: zeros at one place of each row of a batch."""

  def __init__(self, p: Problem, net, batch: int):
    import torch

    self.p = p
    self.net = net.model
    self.batch = batch
    self.torch = torch
    self.head = net.proj_out.weight[list(ANSWERS)]
    self.mel = torch.tensor(p.mel).mT.contiguous()
    self.tokens = torch.tensor(p.tokens, dtype=torch.long)

  def _rows(self, x, n: int):
    return x.expand(n, *x.shape[1:])

  def _difference(self, hidden):
    first, second = (hidden[:, -1] @ self.head.T).unbind(-1)
    return first - second

  def decoder(self):
    """[2, L, N, P]."""
    torch = self.torch
    c = self.p.config
    with torch.inference_mode():
      states = self.net.encoder(self.mel).last_hidden_state
      grids = [self._decoder_site(name, states) for name in ('self_attn', 'encoder_attn')]
    shape = (2, c.decoder_depth, len(self.p.heads), len(self.p.positions))
    return torch.stack(grids).reshape(shape).numpy()

  def _decoder_site(self, name: str, states):
    torch = self.torch
    c = self.p.config
    out = []
    places = [(head, at) for head in self.p.heads for at in self.p.positions]
    for layer in self.net.decoder.layers:
      projection = getattr(layer, name).out_proj
      for first in range(0, len(places), self.batch):
        some = places[first : first + self.batch]
        with _Zeroed(projection, some, c.head_dim):
          hidden = self.net.decoder(
            self._rows(self.tokens, len(some)),
            encoder_hidden_states=self._rows(states, len(some)),
            use_cache=False,
          ).last_hidden_state
        out.append(self._difference(hidden))
    return torch.cat(out)

  def encoder(self):
    """[2, L, 1, F]."""
    torch = self.torch
    c = self.p.config
    with torch.inference_mode():
      out = [self._encoder_site(name) for name in ('self_attn', 'fc2')]
    return torch.stack(out).reshape(2, c.encoder_depth, 1, len(self.p.frames)).numpy()

  def _encoder_site(self, name: str):
    out = []
    for layer in self.net.encoder.layers:
      module = getattr(layer, name)
      for first in range(0, len(self.p.frames), self.batch):
        some = self.p.frames[first : first + self.batch]
        handle = module.register_forward_hook(_zero_frames(some))
        states = self.net.encoder(self._rows(self.mel, len(some))).last_hidden_state
        handle.remove()
        tokens = self._rows(self.tokens, len(some))
        hidden = self.net.decoder(tokens, encoder_hidden_states=states, use_cache=False).last_hidden_state
        out.append(self._difference(hidden))
    return self.torch.cat(out)


class _Zeroed:
  """While open, row i of the input of a projection is 0 at the i-th (head, token)."""

  def __init__(self, projection, places, size: int):
    self._projection = projection
    self._places = places
    self._size = size

  def _hook(self, module, args):
    x = args[0].clone()
    for row, (head, at) in enumerate(self._places):
      x[row, at, head * self._size : (head + 1) * self._size] = 0
    return (x,)

  def __enter__(self):
    self._handle = self._projection.register_forward_pre_hook(self._hook)

  def __exit__(self, *exception):
    self._handle.remove()


def _zero_frames(frames: Sequence[int]):
  """A hook that zeroes a branch's output, row i at the i-th frame."""

  def hook(module, args, output):
    x = (output[0] if isinstance(output, tuple) else output).clone()
    for row, at in enumerate(frames):
      x[row, at] = 0
    if isinstance(output, tuple):
      return (x, *output[1:])
    return x

  return hook


def work(options: Options) -> None:
  """Builds all arms, compares their grids and prints the figures. Raises ValueError when grids differ."""
  pinned.pin()
  import numpy as np
  import torch

  torch.set_num_threads(1)
  p = problem(options)
  net = converted(p)
  mine = ours(p, block=options.block)
  serial = Torch(p, net, 1)
  batched = Torch(p, net, BATCH)
  for name, run in mine.items():
    start = time.process_time()
    grid = run()
    first = time.process_time() - start
    arms = {'ours': run, 'torch, 16 a batch': getattr(batched, name), 'torch, one by one': getattr(serial, name)}
    want = arms['torch, 16 a batch']()
    gap = float(np.abs(grid - want).max() / np.abs(want).max())
    if not gap <= 1e-3:
      raise ValueError(f'{name}: grids differ by {gap:.1e} of their largest value')
    seconds = fastest(arms, repeats=options.repeats)
    print(f'{name}: {grid.size} cells, equal to {gap:.0e}; ours with compilation {first:.1f} s')
    for arm, least in seconds.items():
      cell = 1000 * least / grid.size
      print(f'  {arm:20} {least:7.2f} s {cell:8.1f} ms a cell {least / seconds["ours"]:6.2f} times ours', flush=True)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
