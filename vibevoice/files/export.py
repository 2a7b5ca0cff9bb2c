"""The checkpoint folder at the end of a training run."""

import os
import pathlib
import shutil

from vibevoice import model
from vibevoice.config import Config
from vibevoice.files import checkpoint
from vibevoice.inputs.processor import Processor


def export(folder: pathlib.Path, config: Config, params: model.Params, processor: Processor) -> None:
  """Writes weights (adapters folded in), configuration and tokenizer; the folder appears whole or not at all."""
  draft = folder.with_name(folder.name + '.new')
  shutil.rmtree(draft, ignore_errors=True)
  checkpoint.save(draft, config, params)
  processor.tokenizer.save_pretrained(draft)
  shutil.rmtree(folder, ignore_errors=True)
  os.replace(draft, folder)
