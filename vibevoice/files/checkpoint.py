"""VibeVoice's published folders, in and out: TTS in two layouts of tensor names, Realtime in one."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from core.files import adapters, store, weights
from core.files.config import read_json
from core.files.store import CheckpointError, FolderPath
from core.files.tensors import Files
from core.mesh import RULES
from vibevoice import model, realtime
from vibevoice.config import Config, RealtimeConfig
from vibevoice.files.config_in import config_from
from vibevoice.files.config_out import config_to, realtime_config_to
from vibevoice.files.names import LAYOUTS, OUTPUT, UNUSED, names, realtime_names

Parameters = model.Params | realtime.Params


def load(
  path: FolderPath, *, mesh=None, rules=RULES, dtype=jnp.bfloat16, adapter: FolderPath | None = None
) -> tuple[Config | RealtimeConfig, Parameters]:
  """(config, params) of a published folder or its URL, straight onto `mesh` (one device by default).

  The config says which model and layout it is; a stored output matrix is used even where the config says tied. dtype:
  of all weights; None: that of the files. adapter: the folder of a PEFT adapter, named after any layout; its weights
  come as `core.params.Lora` (`core.params.fold` merges them). Raises core.files.store.CheckpointError naming what is
  missing, unexpected, misshapen or unreadable, before memory is spent.
  """
  folder = store.folder(path)
  config, layout = config_from(read_json(folder, 'config.json'), f'{folder}/config.json')
  files = Files(folder)
  _check_kind(config, layout, files)
  if dtype is None:
    dtype = files.dtype
  options = {'mesh': mesh, 'rules': rules, 'dtype': dtype}
  if isinstance(config, RealtimeConfig):
    trees = [realtime_names(config)]
    spec = realtime.spec(config)
    params = weights.load(files, trees[0], spec, unused=UNUSED, **options)
  else:
    language = dataclasses.replace(config.language, tied=OUTPUT not in files)
    config = dataclasses.replace(config, language=language)
    trees = [names(config, layout) for layout in LAYOUTS]
    spec = model.spec(config)
    params = weights.load(files, names(config, layout), spec, **options)
  if adapter is not None:
    params = adapters.load(adapter, params, trees, spec, mesh=mesh, rules=rules)
  return config, params


def _check_kind(config: Config | RealtimeConfig, layout: str, files: Files) -> None:
  """Raises CheckpointError when the tensors are those of another kind of model than the config says."""
  said = 'Realtime' if isinstance(config, RealtimeConfig) else f'TTS in the {layout} layout'
  stored = _kind_of(files)
  if stored != said:
    raise CheckpointError(f'{files.folder}: config.json describes {said}; the tensors are those of {stored}')


def _kind_of(files: Files) -> str:
  def holds(prefix: str) -> bool:
    return any(name.startswith(prefix) for name in files.tensors)

  if holds('model.tts_language_model.'):
    return 'Realtime'
  for layout, at in LAYOUTS.items():
    if holds(at.head):
      return f'TTS in the {layout} layout'
  return f'no VibeVoice that speaks: no diffusion head among {sorted(files.tensors)[:3]} …'


def save(path: FolderPath, config: Config | RealtimeConfig, params: Any, *, layout: str = 'original') -> None:
  """Writes safetensors and `config.json`: names, shapes, dtypes and values as published.

  layout: 'original' or 'transformers'; Realtime is published in the original layout alone. Raises ValueError for
  another one, and for a config that the layout cannot say.
  """
  if isinstance(config, RealtimeConfig):
    if layout != 'original':
      raise ValueError(f"layout {layout!r} of a Realtime model; expected 'original', the only one it is published in")
    described = realtime_config_to(config)
    tree = realtime_names(config)
    spec = realtime.spec(config)
  else:
    tree = names(config, layout)
    spec = model.spec(config)
    described = config_to(config, layout)
  weights.save(path, params, tree, spec)
  weights.save_config(path, described)


def save_adapter(
  path: FolderPath,
  config: Config | RealtimeConfig,
  params: Any,
  *,
  layout: str = 'original',
  base: str | None = None,
) -> None:
  """Writes the `core.params.Lora` weights of `params` as a PEFT adapter folder, as `core.files.adapters.save`.

  layout: whose names it has, as in `save`.
  """
  if isinstance(config, RealtimeConfig):
    tree = realtime_names(config)
    spec = realtime.spec(config)
  else:
    tree = names(config, layout)
    spec = model.spec(config)
  adapters.save(path, params, tree, spec, base=base)
