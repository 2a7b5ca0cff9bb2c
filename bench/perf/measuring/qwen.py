"""Random Qwen-shaped models of transformers, and the same weights as ours."""

import dataclasses
import tempfile
from typing import Any, Literal

from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Shape:
  """Heads of 64, half as many of keys, and a feed-forward three times the width. Flags of the benches that use it."""

  family: Literal['qwen2', 'qwen3'] = field('qwen3', 'shape of the decoder')
  width: int = field(256, 'model width; heads of 64, feed-forward three times the width', low=64)
  layers: int = field(4, 'number of layers', low=1)
  vocab: int = field(2048, 'vocabulary', low=2)


def config(shape: Shape) -> Any:
  """The transformers config of a shape, without special tokens."""
  import transformers

  kind = getattr(transformers, f'{shape.family.capitalize()}Config')
  return kind(
    vocab_size=shape.vocab,
    hidden_size=shape.width,
    num_hidden_layers=shape.layers,
    num_attention_heads=shape.width // 64,
    num_key_value_heads=max(shape.width // 128, 1),
    head_dim=64,
    intermediate_size=3 * shape.width,
    tie_word_embeddings=False,
    eos_token_id=None,
    bos_token_id=None,
    pad_token_id=0,
  )


def reference(shape: Shape) -> Any:
  """A random transformers model on one thread of torch, with weights large enough that greedy ids are not ties."""
  import torch
  import transformers

  torch.set_num_threads(1)
  torch.manual_seed(0)
  kind = getattr(transformers, f'{shape.family.capitalize()}ForCausalLM')
  model = kind(config(shape)).eval()
  for p in model.parameters():
    if p.ndim == 2:
      p.data = torch.randn_like(p) / p.shape[1] ** 0.5
  return model


def converted(model: Any) -> tuple[Any, Any]:
  """(config, float32 params) of ours with the same weights."""
  import jax.numpy as jnp

  from core import decoder

  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    return decoder.load(folder, dtype=jnp.float32)


def ours(shape: Shape, *, max_length: int) -> Any:
  """A config of ours of this shape, for benches without a peer of transformers."""
  from core import decoder

  return decoder.Config(
    vocab=shape.vocab,
    width=shape.width,
    depth=shape.layers,
    heads=shape.width // 64,
    kv_heads=max(shape.width // 128, 1),
    head_dim=64,
    mlp_width=3 * shape.width,
    norm_eps=1e-6,
    rope_theta=1e6,
    qk_norm=shape.family == 'qwen3',
    qkv_bias=shape.family == 'qwen2',
    max_length=max_length,
  )
