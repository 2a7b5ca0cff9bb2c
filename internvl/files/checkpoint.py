"""InternVL's published files: three layouts of tensor names in, two out, and their `config.json`.

A: the original remote-code checkpoints (`vision_model.`, `mlp1.`, `language_model.`). B: the files of the `-HF`
checkpoints (`vision_tower.`, `multi_modal_projector.`). C: the in-memory names of transformers 5 (`model.…`),
read only. Flash checkpoints are published, and so read and written, in layout A alone.
"""

import dataclasses

import jax.numpy as jnp

from core import encoder
from core.decoder import hf
from core.files import adapters, store, weights
from core.files.store import CheckpointError, FolderPath
from core.files.tensors import Files
from core.files.weights import From
from core.mesh import RULES
from internvl import projector, vision
from internvl.files.hf_config import config_from, config_to
from internvl.flash import names as flash_names
from internvl.flash import router
from internvl.model import Config, Params, spec

HEADS = {'A': 'language_model.lm_head.weight', 'B': 'language_model.lm_head.weight', 'C': 'lm_head.weight'}


def layout_of(tensors) -> str:
  """Which layout the tensor names have. Raises CheckpointError when none."""
  for layout, prefix in (('A', 'vision_model.'), ('B', 'vision_tower.'), ('C', 'model.vision_tower.')):
    if any(name.startswith(prefix) for name in tensors):
      return layout
  raise CheckpointError(f'no InternVL vision tower among the tensors {sorted(tensors)[:5]} …')


def layout_for(config: Config) -> str:
  """The layout to write a model in where nothing else decides: 'A' for Flash, which has no other, and 'B'."""
  if config.flash:
    return 'A'
  return 'B'


def names(config: Config, layout: str) -> Params:
  """The tree of tensor names in a layout. Raises ValueError for a layout that the model is not published in."""
  if layout not in HEADS:
    raise ValueError(f'layout {layout!r}; expected one of {sorted(HEADS)}')
  if config.flash and layout != 'A':
    raise ValueError(f"layout {layout!r} of a Flash model; expected 'A', the only one that Flash is published in")
  body = 'model.language_model.' if layout == 'C' else 'language_model.model.'
  language = hf.names(config.language, body=body, head=HEADS[layout], fused_experts=layout == 'C')
  if layout == 'A':
    projection = _projector(norm='mlp1.0', up='mlp1.1', out='mlp1.3')
    return Params(
      vision=_vision_a(config.vision),
      projector=projection,
      language=language,
      compact=flash_names.compact_names() if config.flash else None,
      router=flash_names.router_names() if config.flash else None,
    )
  root = 'model.' if layout == 'C' else ''
  at = f'{root}multi_modal_projector.'
  projection = _projector(norm=f'{at}layer_norm', up=f'{at}linear_1', out=f'{at}linear_2')
  return Params(vision=_vision_b(config.vision, f'{root}vision_tower.'), projector=projection, language=language)


def _projector(*, norm: str, up: str, out: str) -> projector.Params:
  flip = lambda name: From(f'{name}.weight', 'o i -> i o')
  return projector.Params(
    norm=From(f'{norm}.weight'),
    norm_bias=From(f'{norm}.bias'),
    up=flip(up),
    up_bias=From(f'{up}.bias'),
    out=flip(out),
    out_bias=From(f'{out}.bias'),
  )


def _norm(name: str, c: vision.Config) -> encoder.Norm:
  bias = None
  if c.norm == 'layer':
    bias = From(f'{name}.bias')
  return encoder.Norm(scale=From(f'{name}.weight'), bias=bias)


def _block(c: vision.Config, at: str, attn: encoder.Attention, norms: tuple[str, str], scales: tuple[str, str]):
  flip = lambda name: From(f'{at}mlp.{name}.weight', 'o i -> i o')
  return encoder.Block(
    attn_norm=_norm(at + norms[0], c),
    attn=attn,
    attn_scale=From(at + scales[0]),
    mlp_norm=_norm(at + norms[1], c),
    up=flip('fc1'),
    up_bias=From(f'{at}mlp.fc1.bias'),
    down=flip('fc2'),
    down_bias=From(f'{at}mlp.fc2.bias'),
    mlp_scale=From(at + scales[1]),
  )


def _stem(*, cls: str, positions: str, patch: str, blocks: encoder.Block) -> vision.Params:
  return vision.Params(
    cls=From(cls, '1 1 d -> d'),
    positions=From(positions, '1 p d -> p d'),
    patch=From(f'{patch}.weight', 'd i y x -> y x i d'),
    patch_bias=From(f'{patch}.bias'),
    blocks=blocks,
  )


def _vision_a(c: vision.Config) -> vision.Params:
  at = 'vision_model.encoder.layers.{layer}.'
  fused = lambda part: From(f'{at}attn.qkv.weight', '(part n h) d -> part d n h', part, 3)
  bias = lambda part: From(f'{at}attn.qkv.bias', '(part n h) -> part n h', part, 3) if c.qkv_bias else None
  full = lambda name: From(f'{at}attn.{name}.weight') if c.qk_norm else None
  attn = encoder.Attention(
    q=fused(0),
    k=fused(1),
    v=fused(2),
    o=From(f'{at}attn.proj.weight', 'd (n h) -> n h d'),
    q_bias=bias(0),
    k_bias=bias(1),
    v_bias=bias(2),
    o_bias=From(f'{at}attn.proj.bias'),
    q_norm=full('q_norm'),
    k_norm=full('k_norm'),
  )
  stem = 'vision_model.embeddings.'
  return _stem(
    cls=f'{stem}class_embedding',
    positions=f'{stem}position_embedding',
    patch=f'{stem}patch_embedding',
    blocks=_block(c, at, attn, ('norm1', 'norm2'), ('ls1', 'ls2')),
  )


def _vision_b(c: vision.Config, root: str) -> vision.Params:
  at = root + 'encoder.layer.{layer}.'
  single = lambda n: From(f'{at}attention.{n}_proj.weight', '(n h) d -> d n h')
  bias = lambda n: From(f'{at}attention.{n}_proj.bias', '(n h) -> n h') if c.qkv_bias else None
  full = lambda name: From(f'{at}attention.{name}.weight') if c.qk_norm else None
  out = f'{at}attention.projection_layer'
  attn = encoder.Attention(
    q=single('q'),
    k=single('k'),
    v=single('v'),
    o=From(f'{out}.weight', 'd (n h) -> n h d'),
    q_bias=bias('q'),
    k_bias=bias('k'),
    v_bias=bias('v'),
    o_bias=From(f'{out}.bias'),
    q_norm=full('q_norm'),
    k_norm=full('k_norm'),
  )
  stem = f'{root}embeddings.'
  return _stem(
    cls=f'{stem}cls_token',
    positions=f'{stem}position_embeddings',
    patch=f'{stem}patch_embeddings.projection',
    blocks=_block(c, at, attn, ('layernorm_before', 'layernorm_after'), ('lambda_1', 'lambda_2')),
  )


def load(
  path: FolderPath, *, mesh=None, rules=RULES, dtype=jnp.bfloat16, adapter: FolderPath | None = None
) -> tuple[Config, Params]:
  """(config, params) of a published folder or its URL, layout A, B or C, straight onto `mesh` (one device by default).

  adapter: the folder of a PEFT adapter, named after any layout; its weights come as `core.params.Lora`
  (`core.params.fold` merges them). A stored head is used, tied or not, and a model is Flash if the compact projector is
  stored. Raises core.files.store.CheckpointError naming what is missing, unexpected, misshapen or unreadable, before
  memory is spent.
  """
  folder = store.folder(path)
  config = config_from(folder)
  files = Files(folder)
  layout = layout_of(files.tensors)
  tied = HEADS[layout] not in files
  language = dataclasses.replace(config.language, tied=tied)
  config = dataclasses.replace(config, language=language, flash=_flash(config, files))
  params = weights.load(files, names(config, layout), spec(config), mesh=mesh, rules=rules, dtype=dtype)
  if adapter is not None:
    trees = [names(config, layout) for layout in ('A' if config.flash else HEADS)]
    params = adapters.load(adapter, params, trees, spec(config), mesh=mesh, rules=rules)
  return config, params


def _flash(config: Config, files: Files) -> router.Config | None:
  """The decision rule of a stored model. Tensors decide: a base model may say `flash_mode: false`."""
  if flash_names.COMPACT_WEIGHT in files:
    return config.flash or router.Config(enabled=False)
  declared = config.flash is not None and config.flash.enabled
  return config.flash if declared else None  # then the tensors are missing, as `weights.check` says by name


def save(path: FolderPath, config: Config, params: Params, *, layout: str | None = None) -> None:
  """Writes safetensors and `config.json`: the names, shapes, dtypes and values as published.

  layout: 'A' or 'B'; None: as `layout_for` says. Raises ValueError for another one, and for Flash in layout B.
  """
  if layout is None:
    layout = layout_for(config)
  if layout not in ('A', 'B'):
    raise ValueError(f"layout {layout!r}; expected 'A' or 'B'")
  weights.save(path, params, names(config, layout), spec(config))
  weights.save_config(path, config_to(config, layout))


def save_adapter(
  path: FolderPath, config: Config, params: Params, *, layout: str | None = None, base: str | None = None
) -> None:
  """Writes the `core.params.Lora` weights of `params` as a PEFT adapter folder, as `core.files.adapters.save`.

  layout: whose names it has: 'A' for the original remote-code model, the only one of Flash; 'C' for the model of
  transformers; None: 'C' where there is one.
  """
  if layout is None:
    layout = 'A' if config.flash else 'C'
  adapters.save(path, params, names(config, layout), spec(config), base=base)
