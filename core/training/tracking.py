"""Metrics on Weights & Biases as well, for runs whose environment names a project: WANDB_PROJECT (extra wandb)."""

import hashlib
import netrc
import os
import pathlib
import urllib.parse
from collections.abc import Mapping
from typing import Any

from absl import logging

PROJECT = 'WANDB_PROJECT'
KEYS = ('WANDB_API_KEY', 'WANDB_IDENTITY_TOKEN_FILE')
LOCAL_MODES = ('offline', 'dryrun', 'disabled')
SERVER = 'https://api.wandb.ai'


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
    self._run = wandb.init(dir=path, name=name, id=identity, resume='allow', mode=_mode(path))

  def log(self, values: Mapping[str, float | int | None], step: int) -> None:
    """Numbers by name at a step; those that are None are left out."""
    if self._run:
      self._run.log({name: value for name, value in values.items() if value is not None}, step=step)

  def close(self) -> None:
    """Sends what is left."""
    if self._run:
      self._run.finish()


def _mode(path: str) -> str | None:
  """None for that of the environment; offline if there is no key, for which the library would ask on a terminal."""
  if os.environ.get('WANDB_MODE') in LOCAL_MODES or any(map(os.environ.get, KEYS)) or _logged_in():
    return None
  logging.warning('no key for Weights & Biases (WANDB_API_KEY or `wandb login`): metrics are kept in %s/wandb', path)
  return 'offline'


def _logged_in() -> bool:
  """Whether `wandb login` has left a key for the server on this machine."""
  host = urllib.parse.urlsplit(os.environ.get('WANDB_BASE_URL') or SERVER).hostname
  given = os.environ.get('NETRC')
  files = [given] if given else ['~/.netrc', '~/_netrc']
  for file in files:
    try:
      if netrc.netrc(os.path.expanduser(file)).authenticators(host or ''):
        return True
    except (OSError, netrc.NetrcParseError):
      continue
  return False
