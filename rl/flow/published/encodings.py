"""Encodings of prompts on disk: a run that continues loads no text encoder for prompts that it has seen.

T text tokens   D width of the text   P width of the pooled vector
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import safetensors
import safetensors.numpy

from core import mesh as mesh_lib
from core.mesh import Mesh
from rl.flow.policy import FlowPrompt

Encode = Callable[[str], FlowPrompt]


@dataclasses.dataclass(frozen=True)
class Encodings:
  """`Encodings(…)(text)` is `load()(text)`, computed once and kept in `folder` as float32, a file for each prompt.

  load: returns the function that encodes; it is called at the first prompt that is not kept, and never without one.
  name: of models and sizes, part of a prompt's key. home: the mesh whose processes encode together; they call with the
  same texts in the same order.
  """

  folder: pathlib.Path
  name: str
  load: Callable[[], Encode]
  home: Mesh | None = None

  @functools.cached_property
  def _encode(self) -> Encode:
    return self.load()

  def __call__(self, text: str) -> FlowPrompt:
    path = self._path(text)
    known = read(path, text)
    # All processes encode if one of them must: the encoders' arrays are spread over them.
    missing = mesh_lib.sum_over_processes(np.float64(known is None), self.home)
    if known is not None and not missing:
      return known
    encoded = self._encode(text)
    if known is None:
      write(path, encoded)
    return encoded

  def _path(self, text: str) -> pathlib.Path:
    key = json.dumps([self.name, text]).encode()
    return self.folder / f'{hashlib.sha256(key).hexdigest()}.safetensors'


def write(path: pathlib.Path, prompt: FlowPrompt) -> None:
  """Keeps an encoding; the file appears only when it is complete."""
  path.parent.mkdir(parents=True, exist_ok=True)
  arrays = {name: np.ascontiguousarray(getattr(prompt, name)) for name in ('tokens', 'context', 'pooled')}
  draft = path.with_suffix(f'.{jax.process_index()}.part')
  safetensors.numpy.save_file(arrays, draft)
  draft.replace(path)


def read(path: pathlib.Path, text: str) -> FlowPrompt | None:
  """The encoding of a text that is kept, or None: tokens int32 [T], context float32 [T, D], pooled float32 [P].

  Raises ValueError naming a file that is damaged.
  """
  if not path.exists():
    return None
  try:
    arrays = safetensors.numpy.load_file(path)
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path}: not an encoding of a prompt ({error}); delete it') from None
  return FlowPrompt(text=text, **arrays)
