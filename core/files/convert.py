"""Writes a model of another format as an ordinary folder: config.json, safetensors and a tokenizer.

    python -m core.files.convert SmolLM2-135M-Instruct.Q4_1.gguf runs/smollm2

Reads GGUF files of Llama decoders, dequantised. Needs `pip install -e '.[gguf]'`.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from core.files import store
from core.files.config import CheckpointError, write_json
from core.files.formats import gguf
from core.files.tensors import header, single_name
from core.launch import command
from core.launch.fields import field

MAGIC = b'GGUF'


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  files: tuple[str, ...] = field((), 'the file to read, then the folder to write', positional=True)
  dtype: Literal['float32', 'bfloat16'] = field('float32', 'of the weights that are written')

  def __post_init__(self):
    if len(self.files) != 2:
      raise ValueError(f'{len(self.files)} names given: expected SOURCE TARGET')


def convert(source: str | os.PathLike, target: store.FolderPath, *, dtype: str = 'float32') -> None:
  """Writes the model of a GGUF file as a published folder, in `dtype`; `core.decoder.load` and `rl.policy` take it.

  Raises CheckpointError for any other format, and as `core.files.formats.gguf`.
  """
  with open(source, 'rb') as opened:
    magic = opened.read(len(MAGIC))
  if magic != MAGIC:
    raise CheckpointError(f'{os.fspath(source)} begins with {magic!r}; expected a GGUF file, {MAGIC!r}')
  file = gguf.read(source)
  config = gguf.config(file)
  tokenizer = gguf.tokenizer(file)
  names = file.published()
  folder = store.folder(target)
  folder.write(single_name(), _safetensors(file, names, jnp.dtype(dtype)))
  # The library writes local files only.
  tokenizer.save_pretrained(os.fspath(folder.local))
  write_json(folder, 'config.json', config)  # last: its presence says that the folder is complete


def _safetensors(file: gguf.Gguf, names: dict[str, str], dtype: np.dtype) -> Iterator[bytes | memoryview]:
  """The bytes of a safetensors file, one tensor in memory at a time."""
  shapes = {name: (dtype, file.shape(stored)) for name, stored in names.items()}
  head, order = header(shapes)
  yield head
  for name in order:
    values = np.ascontiguousarray(file.read(names[name]), dtype)
    yield values.reshape(-1).view(np.uint8).data


def work(options: Options) -> int:
  """Converts and says where the folder is."""
  source, target = options.files
  convert(source, pathlib.Path(target), dtype=options.dtype)
  print(f'{target}: a folder that core.decoder.load reads', file=sys.stderr)
  return 0


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status: 0, 1 for an error or 2 for bad flags."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
