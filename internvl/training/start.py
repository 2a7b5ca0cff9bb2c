"""What a run starts from: the processor, the data of a made task, the model, and ViCO's reference."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from core import mesh
from core import params as params_lib
from core.files.tensors import Files
from core.toy import digits, panels
from internvl import model
from internvl.configs import CONFIGS as SIZES
from internvl.files import checkpoint
from internvl.flash import router
from internvl.inputs.processor import Processor
from internvl.inputs.processor_config import ProcessorConfig
from internvl.training.configs import Config

TASKS = {'digits': digits.export, 'panels': panels.export}
EXAMPLES = {'train': 4096, 'heldout': 1024}  # of a made task


def check(c: Config) -> None:
  """Raises ValueError where ViCO lacks the weights that it starts from."""
  if c.objective == 'next_token':
    return
  if c.model in SIZES:
    raise ValueError(f'model={c.model} with objective={c.objective}: expected the folder of a checkpoint')
  if c.objective == 'routing' and not c.reference:
    raise ValueError('objective=routing needs config.reference, the folder of the model that stage 1 started from')


def processor_for(c: Config) -> Processor:
  """The input side: of the checkpoint or the tokenizer folder, or bytes for tiny."""
  if c.model not in SIZES:
    return Processor.load(c.model)
  if c.tokenizer:
    return Processor.load(c.tokenizer)
  if c.model not in ('tiny', 'tiny-flash', 'micro'):
    raise ValueError(
      f'model={c.model} from scratch needs the tokenizer of a checkpoint folder: give config.tokenizer, '
      'or the folder itself as config.model to start from its weights'
    )
  m = SIZES[c.model]
  return Processor.over_bytes(
    ProcessorConfig(
      image_size=m.vision.image_size,
      tokens_per_tile=m.tokens_per_tile,
      max_tiles=4,
      thumbnail=c.task != 'panels',  # it would show panels again, too small to read
      system='',
      max_length=m.language.max_length,
      video_frames=4,
    )
  )


def files(c: Config, workdir: pathlib.Path) -> tuple[Sequence[str], Sequence[str]]:
  """Paths of the training and held-out data; those of the task are made once where none are given."""
  if c.data:
    return c.data, c.heldout
  folder = workdir / c.task
  paths = {split: str(folder / f'{split}.jsonl') for split in EXAMPLES}
  if jax.process_index() == 0:
    for split, n in EXAMPLES.items():
      if not os.path.exists(paths[split]):
        TASKS[c.task](folder, split, c.seed, n)
  mesh.barrier('task')
  return (paths['train'],), c.heldout or (paths['heldout'],)


def start(c: Config, processor: Processor, place) -> tuple[model.Config, model.Params]:
  """The model and its first weights, on the mesh: float32, or `c.dtype` where only adapters are trained.

  A base model that ViCO makes a Flash model gets a compact projector and a router, drawn at random.
  """
  dtype = c.dtype if c.lora.rank else 'float32'
  if c.model not in SIZES:
    m, params = checkpoint.load(c.model, mesh=place, dtype=dtype)
    if c.objective == 'consistency' and not m.flash:
      return add_flash(c, m, params, place)
    return (m, params)
  m = dataclasses.replace(SIZES[c.model], image_token=processor.image_id)
  if len(processor.tokenizer) > m.language.vocab:
    raise ValueError(f'the tokenizer has {len(processor.tokenizer)} tokens, the model rows for {m.language.vocab}')
  places = mesh.shardings(model.spec(m), place)
  make = lambda key: model.init(key, m, jnp.dtype(dtype))
  return m, params_lib.draw(make, jax.random.key(c.seed), places)


def add_flash(c: Config, m: model.Config, params: model.Params, place) -> tuple[model.Config, model.Params]:
  """A base model with the compact projector and the router of a Flash model, drawn at random; it does not route yet."""
  m = dataclasses.replace(m, flash=router.Config(enabled=False))
  added = model.spec(m).replace(vision=None, projector=None, language=None)
  dtype = jnp.float32 if not c.lora.rank else jnp.dtype(c.dtype)
  make = lambda key: params_lib.init(key, added, dtype)
  drawn = params_lib.draw(make, jax.random.key(c.seed), mesh.shardings(added, place))
  return m, params.replace(compact=drawn.compact, router=drawn.router)


def reference(c: Config, m: model.Config, params: model.Params, place) -> model.Params | None:
  """The frozen weights that ViCO compares with, without those of Flash, in `c.dtype`; None for other objectives.

  They are a copy: the step donates the model's own. Raises ValueError for a reference of another architecture, and for
  a model without a router in stage 2.
  """
  if c.objective == 'next_token':
    return None
  if not m.flash:
    raise ValueError(f'model={c.model} has no router; expected a Flash model, as objective=consistency makes it')
  if c.reference:
    other, weights = checkpoint.load(c.reference, mesh=place, dtype=c.dtype)
    base = dataclasses.replace(m, flash=None)
    if dataclasses.replace(other, flash=None) != base:
      raise ValueError(f'reference={c.reference} is of another architecture than model={c.model}: {other}, not {base}')
  else:
    weights = jax.tree.map(jnp.copy, params_lib.cast(params, c.dtype))
  return weights.replace(compact=None, router=None)


def trained_config(c: Config, m: model.Config) -> model.Config:
  """The configuration to export: a model whose router was trained routes unless a request says otherwise."""
  if c.objective != 'routing':
    return m
  return dataclasses.replace(m, flash=dataclasses.replace(m.flash, enabled=True))


def layout_for(c: Config, m: model.Config) -> str:
  """The layout to export in: the source's, if the model can be written in it."""
  if c.model in SIZES or m.flash:
    return checkpoint.layout_for(m)
  if checkpoint.layout_of(Files(c.model).tensors) == 'A':
    return 'A'
  return 'B'
