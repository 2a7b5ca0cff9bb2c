"""A decoder's published files: tensor names of every family, and folders in and out."""

import dataclasses
from typing import Any

from core import moe
from core.decoder import params as decoder
from core.decoder.hf_config import config_from, config_to
from core.files import adapters, store, weights
from core.files.config import read_json
from core.files.store import FolderPath
from core.files.tensors import Files
from core.files.weights import From
from core.mesh import RULES


def names(
  c: decoder.Config, *, body: str = 'model.', head: str = 'lm_head.weight', fused_experts: bool = False
) -> decoder.Params:
  """The tree of names, with the body's tensors under the prefix `body`.

  fused_experts: Qwen3-MoE experts stacked as transformers 5 holds them in memory, not one file tensor each.
  """
  at = f'{body}layers.{{layer}}.'
  attn = at + 'self_attn.'
  out_in = lambda name, heads: From(f'{attn}{name}.weight', f'({heads} h) d -> d {heads} h')
  bias = lambda on, name, heads: From(f'{attn}{name}.bias', f'({heads} h) -> {heads} h') if on else None
  attention = decoder.Attention(
    q=out_in('q_proj', 'n'),
    k=out_in('k_proj', 'n'),
    v=out_in('v_proj', 'n'),
    o=From(f'{attn}o_proj.weight', 'd (n h) -> n h d'),
    q_bias=bias(c.qkv_bias, 'q_proj', 'n'),
    k_bias=bias(c.qkv_bias, 'k_proj', 'n'),
    v_bias=bias(c.qkv_bias, 'v_proj', 'n'),
    o_bias=From(f'{attn}o_proj.bias') if c.out_bias else None,
    q_norm=From(f'{attn}q_norm.weight') if c.qk_norm else None,
    k_norm=From(f'{attn}k_norm.weight') if c.qk_norm else None,
    sinks=From(f'{attn}sinks') if c.sinks else None,
  )
  block = decoder.Block(
    attn_norm=From(f'{at}input_layernorm.weight'),
    attn=attention,
    mlp_norm=From(f'{at}post_attention_layernorm.weight'),
    mlp=_mlp_names(c, f'{at}mlp.', fused_experts),
  )
  return decoder.Params(
    embed=From(f'{body}embed_tokens.weight') if c.embedding else None,
    blocks=block,
    norm=From(f'{body}norm.weight') if c.final_norm else None,
    head=None if c.tied else From(head, 'v d -> d v'),
  )


def _mlp_names(c: decoder.Config, at: str, fused_experts: bool) -> Any:
  flip = lambda name: From(f'{at}{name}.weight', 'o i -> i o')
  if c.moe is None:
    return decoder.Mlp(gate=flip('gate_proj'), up=flip('up_proj'), down=flip('down_proj'))
  if c.moe.bias:  # GPT-OSS: even columns gate, odd up
    fused = lambda part: From(f'{at}experts.gate_up_proj', 'e d (f part) -> part e d f', part, 2)
    fused_bias = lambda part: From(f'{at}experts.gate_up_proj_bias', 'e (f part) -> part e f', part, 2)
    return moe.Params(
      router=flip('router'),
      gate=fused(0),
      up=fused(1),
      down=From(f'{at}experts.down_proj'),
      router_bias=From(f'{at}router.bias'),
      gate_bias=fused_bias(0),
      up_bias=fused_bias(1),
      down_bias=From(f'{at}experts.down_proj_bias'),
    )
  if fused_experts:
    fused = lambda part: From(f'{at}experts.gate_up_proj', 'e (part f) d -> part e d f', part, 2)
    down = From(f'{at}experts.down_proj', 'e d f -> e f d')
    return moe.Params(router=flip('gate'), gate=fused(0), up=fused(1), down=down)
  expert = lambda name: flip('experts.{expert}.' + name)
  return moe.Params(router=flip('gate'), gate=expert('gate_proj'), up=expert('up_proj'), down=expert('down_proj'))


def load(
  path: FolderPath, *, mesh=None, rules=RULES, dtype=None, adapter: FolderPath | None = None
) -> tuple[decoder.Config, decoder.Params]:
  """(config, params) of a published decoder folder or its URL, in `dtype` (None: the dtype of the files).

  adapter: the folder of a PEFT adapter; its weights come as `core.params.Lora` (`core.params.fold` merges them).

  A stored head is used even if the tie flag is set. Raises core.files.config.CheckpointError naming what is missing,
  unexpected, misshapen or unreadable.
  """
  folder = store.folder(path)
  config = config_from(read_json(folder, 'config.json'), f'{folder}/config.json')
  files = Files(folder)
  config = dataclasses.replace(config, tied='lm_head.weight' not in files)
  if dtype is None:
    dtype = files.dtype
  spec = decoder.spec(config)
  params = weights.load(files, names(config), spec, mesh=mesh, rules=rules, dtype=dtype)
  if adapter is not None:
    params = adapters.load(adapter, params, [names(config)], spec, mesh=mesh, rules=rules)
  return config, params


def save(path: FolderPath, config: decoder.Config, params: decoder.Params) -> None:
  """Writes `config.json` and safetensors as published into a folder or URL."""
  weights.save(path, params, names(config), decoder.spec(config))
  weights.save_config(path, config_to(config))


def save_adapter(path: FolderPath, config: decoder.Config, params: decoder.Params, *, base: str | None = None) -> None:
  """Writes the `core.params.Lora` weights of `params` as a PEFT adapter folder, as `core.files.adapters.save`."""
  adapters.save(path, params, names(config), decoder.spec(config), base=base)
