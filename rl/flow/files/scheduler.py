"""The noise levels that a published folder asks for: `scheduler/scheduler_config.json`."""

import dataclasses
import math
from typing import Literal

import numpy as np

from core.files import store
from core.files.config import Keys, check, naming, read_json, write_json
from core.files.store import CheckpointError, FolderPath
from rl.flow.files.transformer import IGNORED
from rl.flow.sampling import Schedule, dynamic_shift, shifted

CLASS = 'FlowMatchEulerDiscreteScheduler'
FILE = 'scheduler_config.json'
TRAIN_STEPS = 1000
KEYS = Keys(
  read=('shift', 'use_dynamic_shifting'),
  fixed={
    '_class_name': (CLASS,),
    'num_train_timesteps': (TRAIN_STEPS,),
    'base_shift': (0.5,),
    'max_shift': (1.15,),
    'base_image_seq_len': (256,),
    'max_image_seq_len': (4096,),
    'time_shift_type': ('exponential',),
    'invert_sigmas': (False,),
    'stochastic_sampling': (False,),
    'use_beta_sigmas': (False,),
    'use_exponential_sigmas': (False,),
    'use_karras_sigmas': (False,),
  },
  ignored=IGNORED,
)


@dataclasses.dataclass(frozen=True)
class Scheduler:
  """dynamic: the shift grows with the number of patches, and `shift` has no effect."""

  shift: float = 1.0
  dynamic: bool = False

  def __post_init__(self):
    if not 0 < self.shift < math.inf:
      raise ValueError(f'scheduler: shift={self.shift}; expected a positive number')


def config_from(h: dict) -> Scheduler:
  """The scheduler of a `scheduler_config.json`. Raises CheckpointError for what is not supported."""
  check(h, KEYS)
  shift = h.get('shift', 1.0)
  if isinstance(shift, bool) or not isinstance(shift, int | float):
    raise CheckpointError(f'shift={shift!r}; expected a number')
  return Scheduler(shift=float(shift), dynamic=bool(h.get('use_dynamic_shifting')))


def config_to(scheduler: Scheduler) -> dict:
  """The `scheduler_config.json` of a scheduler."""
  fixed = {key: values[0] for key, values in KEYS.fixed.items()}
  return fixed | {'shift': scheduler.shift, 'use_dynamic_shifting': scheduler.dynamic}


def load(path: FolderPath) -> Scheduler:
  """The scheduler of a folder. Raises CheckpointError naming the file."""
  folder = store.folder(path)
  with naming(f'{folder}/{FILE}'):
    return config_from(read_json(folder, FILE))


def save(path: FolderPath, scheduler: Scheduler) -> None:
  """Writes `scheduler_config.json`."""
  write_json(path, FILE, config_to(scheduler))


def schedule(scheduler: Scheduler, steps: int, patches: int, ends: Literal['step', 'tick']) -> Schedule:
  """The noise levels of `steps` steps for images of `patches` patches, as the published pipelines compute them.

  ends: the last level before 0 is one step of `steps` away from it before the shift (FLUX.1), or it is the shifted
  last level of training, 1/1000, shifted once more (SD3).
  """
  if scheduler.dynamic:
    return dynamic_shift(steps, patches)
  if ends == 'step':
    return shifted(steps, scheduler.shift, rounded=False)
  last = _shift(np.float64(1 / TRAIN_STEPS), scheduler.shift)
  levels = _shift(np.linspace(1, last, steps), scheduler.shift)
  return Schedule((*levels.tolist(), 0.0), rounded=False)


def _shift(u: np.ndarray, shift: float) -> np.ndarray:
  return shift * u / (shift * u + (1 - u))
