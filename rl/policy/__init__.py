"""Models as learning sees them: one protocol, one module a kind of model, and a factory that picks by config.json."""

import os
from typing import Any

from core import decoder
from core.files import store
from core.files.config import read_json
from core.mesh import Mesh
from rl.policy import text, vision_language
from rl.policy.base import PLAIN, Draw, Policy, Prompt, Reading, Trajectory
from rl.policy.layouts import ANY_SLOTS, Layout, Rows, Shared, Slots, Trees
from rl.policy.text import TextPolicy

__all__ = [
  'ANY_SLOTS',
  'PLAIN',
  'Draw',
  'Layout',
  'Policy',
  'Prompt',
  'Reading',
  'Rows',
  'Shared',
  'Slots',
  'TextPolicy',
  'Trajectory',
  'Trees',
  'check',
  'load',
  'planned',
]

TINY = {'tiny': vision_language.tiny, 'tiny-text': text.tiny}  # trained from scratch; the first reads text too


def load(model: str | os.PathLike, place: Mesh, *, seed: int = 0) -> tuple[Policy, Any]:
  """(policy, float32 weights on the mesh `place`) of a checkpoint folder, or of a model of TINY drawn with `seed`.

  Raises ValueError for a name that is neither, and FileNotFoundError and ValueError for a folder that cannot be used.
  """
  check(model)
  if model in TINY:
    return TINY[model](seed, place)
  folder = store.folder(model)
  kind = read_json(folder, 'config.json').get('model_type')
  family = vision_language if kind in vision_language.MODEL_TYPES else text
  return family.load(folder, place)


def check(model: str | os.PathLike) -> None:
  """Raises ValueError for a name that is neither of TINY nor of a folder: at once, before other long work.

  A URL is only checked for its scheme.
  """
  local = None if model in TINY else store.folder(model).local
  if local is not None and not local.is_dir():
    raise ValueError(f'model={str(model)!r}: expected {" or ".join(map(repr, TINY))}, or the folder of a checkpoint')


def planned(name: str) -> Policy:
  """The policy of a published size by name, without a tokenizer: for plans. Raises PlanError when there is none."""
  if name in decoder.CONFIGS and name not in TINY:
    return text.TextPolicy(decoder.CONFIGS[name], None, ())
  return vision_language.planned(name)
