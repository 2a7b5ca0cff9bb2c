"""Metrics on Weights & Biases as well, for runs whose environment names a project: WANDB_PROJECT (extra wandb)."""

import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

PROJECT = 'WANDB_PROJECT'


class Tracker:
  """The run of one folder: a run that continues in the folder continues there too."""

  def __init__(self, workdir: pathlib.Path):
    self._run: Any = None
    if not os.environ.get(PROJECT):
      return
    import wandb  # not a requirement

    path = str(workdir.resolve())
    name = '/'.join(pathlib.Path(path).parts[-2:])
    identity = hashlib.sha256(path.encode()).hexdigest()[:16]
    self._run = wandb.init(dir=path, name=name, id=identity, resume='allow')

  def log(self, values: Mapping[str, float | int | None], step: int) -> None:
    """Numbers by name at a step; those that are None are left out."""
    if self._run:
      self._run.log({name: value for name, value in values.items() if value is not None}, step=step)

  def close(self) -> None:
    """Sends what is left."""
    if self._run:
      self._run.finish()
