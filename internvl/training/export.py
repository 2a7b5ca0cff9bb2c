"""A trained model as a checkpoint folder."""

import os
import pathlib
import shutil

import jax

from core import mesh
from internvl import model
from internvl.files import checkpoint
from internvl.inputs.processor import Processor


def export(
  folder: pathlib.Path, config: model.Config, params: model.Params, processor: Processor, *, layout: str | None = None
) -> None:
  """Writes weights (adapters folded in), configuration and processor files; the folder appears whole or not at all.

  layout: as of `internvl.save`.
  """
  draft = folder.with_name(folder.name + '.new')
  old = folder.with_name(folder.name + '.old')
  first = jax.process_index() == 0
  if first:
    for leftover in (draft, old):
      shutil.rmtree(leftover, ignore_errors=True)
  mesh.barrier('export')
  checkpoint.save(draft, config, params, layout=layout)
  mesh.barrier('exported')
  if first:
    processor.save(draft)
    if folder.exists():
      os.replace(folder, old)
    os.replace(draft, folder)
    shutil.rmtree(old, ignore_errors=True)
  mesh.barrier('renamed')
