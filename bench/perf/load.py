"""Loading a decoder's files: ours against transformers' `from_pretrained`, and a raw read of the same bytes.

  python -m bench.perf.load --width=1024 --layers=34 --vocab=151936

Random bfloat16 weights of a Qwen3 shape are written once; then every arm loads them in a fresh process on one pinned
core, in turn: CPU seconds of the call, minimum of the repeats. The files are in the page cache. `system` is the part in
the operating system: pages of memory for the weights, and those of the files. `peak` is the most memory that the
process holds beyond what it held before, mapped pages of the files apart, by the bytes of the weights in their dtype.
The floor is a read of the bytes into one small buffer. In the dtype of the files transformers hands out the mapped
files and reads nothing until the weights are used.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from bench.perf.measuring import qwen, report
from bench.perf.measuring.pinned import pin
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.

VALUES = 1 << 20  # random values, repeated to fill the weights
BUFFER = 256 << 10  # bytes of one raw read
EVERY = 0.005  # seconds between looks at the memory held


@dataclasses.dataclass(frozen=True)
class Options(qwen.Shape):
  """The program's flags."""

  width: int = field(1024, 'model width; heads of 64, feed-forward three times the width', low=64)
  layers: int = field(34, 'number of layers', low=1)
  vocab: int = field(151936, 'vocabulary', low=2)
  dtypes: tuple[Literal['float32', 'bfloat16'], ...] = field(('float32', 'bfloat16'), 'dtypes to load the weights in')
  repeats: int = field(3, 'loads of each arm', low=1)
  json: bool = field(False, 'print JSON')


def write(folder: str, shape: qwen.Shape) -> int:
  """Writes random bfloat16 weights as a published folder; returns how many."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from core import decoder
  from core.decoder import hf_config

  config = hf_config.config_from(qwen.config(shape).to_dict(), folder)
  values = np.random.default_rng(0).standard_normal(VALUES, np.float32).astype(jnp.bfloat16)
  params = jax.tree.map(lambda s: np.resize(values, s.shape), decoder.spec(config))
  decoder.save(folder, config, params)
  return sum(w.size for w in jax.tree.leaves(params))


def ours(folder: str, dtype: str) -> Callable[[], Any]:
  """Our loader."""
  import jax

  from core import decoder

  jax.devices()
  return lambda: decoder.load(folder, dtype=dtype)


def transformers(folder: str, dtype: str) -> Callable[[], Any]:
  """Theirs, which keeps the matrices as they are stored."""
  import torch
  from transformers import Qwen3ForCausalLM

  torch.set_num_threads(1)
  return lambda: Qwen3ForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))


def raw(folder: str, dtype: str) -> Callable[[], Any]:
  """A read of every byte."""
  del dtype
  buffer = bytearray(BUFFER)

  def run() -> None:
    for path in pathlib.Path(folder).glob('*.safetensors'):
      with open(path, 'rb', buffering=0) as file:
        while file.readinto(buffer):
          pass

  return run


ARMS = {'ours': ours, 'transformers': transformers, 'floor': raw}


class Load(NamedTuple):
  """CPU seconds of a load, those of them in the operating system, and the most bytes held beyond those before it."""

  seconds: float
  system: float
  peak: int


def held() -> int:
  """Bytes of memory of this process that are not pages of files."""
  status = pathlib.Path('/proc/self/status').read_text(encoding='ascii')
  return 1024 * int(re.search(r'RssAnon:\s+(\d+)', status)[1])


@contextlib.contextmanager
def watching() -> Iterator[list[int]]:
  """What this process holds while the block runs, looked at again and again."""
  seen = [held()]
  done = threading.Event()

  def watch() -> None:
    while not done.wait(EVERY):
      seen.append(held())

  watcher = threading.Thread(target=watch)
  watcher.start()
  try:
    yield seen
  finally:
    done.set()
    watcher.join()
    seen.append(held())


def measure(arm: str, folder: str, dtype: str) -> Load:
  """One load in this process."""
  pin()
  run = ARMS[arm](folder, dtype)
  with watching() as seen:
    start = os.times()
    result = run()
    stop = os.times()
  del result
  system = stop.system - start.system
  return Load(stop.user - start.user + system, system, max(seen) - seen[0])


def apart(work: Callable, *arguments: Any) -> Any:
  """The result of a function in a fresh process."""
  spawn = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
    return pool.submit(work, *arguments).result()


def compare(options: Options, folder: str, dtype: str, *, size: int) -> report.Row:
  """Figures of all arms, for weights of `size` bytes in `dtype`."""
  loads: dict[str, list[Load]] = {arm: [] for arm in ARMS}
  for _ in range(options.repeats):
    for arm, taken in loads.items():
      taken.append(apart(measure, arm, folder, dtype))
  row: dict[str, Any] = {'what': f'{size / 1e9:.2f} GB of {dtype}'}
  for arm, taken in loads.items():
    least = min(taken, key=lambda load: load.seconds)
    row |= {f'{arm} s': least.seconds, f'{arm} system s': least.system}
    row[f'{arm} peak'] = max(load.peak for load in taken) / size
  row['times faster'] = row['transformers s'] / row['ours s']
  return row


def work(options: Options) -> None:
  """Measures each dtype."""
  report.show(report.machine(), as_json=options.json)
  with tempfile.TemporaryDirectory() as folder:
    count = apart(functools.partial(write, folder, options))
    for dtype in options.dtypes:
      size = count * {'float32': 4, 'bfloat16': 2}[dtype]
      report.show(compare(options, folder, dtype, size=size), as_json=options.json)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
