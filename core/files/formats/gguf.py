"""GGUF files of Llama decoders, as the published folder that they were made from: config, tensors and tokenizer.

The `gguf` library reads the file and dequantises. This module knows how llama.cpp names and orders what is in it.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from core.files.config import CheckpointError, naming, require

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

STORED = ('F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1')
ROTATED = ('attn_q', 'attn_k')  # whose rows are stored in the order of adjacent-pair rotation
LAYER_NAMES = {
  'attn_q': 'self_attn.q_proj',
  'attn_k': 'self_attn.k_proj',
  'attn_v': 'self_attn.v_proj',
  'attn_output': 'self_attn.o_proj',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj',
  'ffn_down': 'mlp.down_proj',
  'attn_norm': 'input_layernorm',
  'ffn_norm': 'post_attention_layernorm',
}
TOP_NAMES = {
  'token_embd.weight': 'model.embed_tokens.weight',
  'output_norm.weight': 'model.norm.weight',
  'output.weight': 'lm_head.weight',
}
_LAYER = re.compile(r'blk\.(\d+)\.(\w+)\.weight')
SPECIAL = 3  # of `tokenizer.ggml.token_type`
SPLITS = ('gpt-2', 'smollm')


@dataclasses.dataclass(frozen=True)
class Gguf:
  """An open file. fields: its metadata. tensors: what the library holds of each tensor, by the name in the file."""

  path: str
  fields: dict[str, Any]
  tensors: Mapping[str, Any]

  def published(self) -> dict[str, str]:
    """Published name → name in the file. Raises CheckpointError for a tensor that the decoder has no place for."""
    names = {}
    for name in self.tensors:
      with naming(self.path):
        names[published_name(name)] = name
    return names

  def shape(self, name: str) -> tuple[int, ...]:
    """Of a tensor in the order of numpy; the file lists sizes in reverse."""
    return tuple(int(size) for size in reversed(self.tensors[name].shape))

  def read(self, name: str) -> np.ndarray:
    """A tensor, float32, dequantised, rows of q and k in half-split rotary order."""
    library = _library()
    tensor = self.tensors[name]
    values = library.dequantize(tensor.data, tensor.tensor_type)
    values = np.asarray(values, np.float32).reshape(self.shape(name))
    kind = name.split('.')[-2]
    if kind not in ROTATED:
      return values
    heads = require(self.fields, f'llama.attention.{"head_count" if kind == "attn_q" else "head_count_kv"}')
    return half_split(values, int(heads))


def read(path: str | os.PathLike) -> Gguf:
  """Opens a GGUF file of a Llama decoder; tensors stay in the file until they are read.

  Raises CheckpointError, naming the file, for another architecture, and for a tensor of a type that is not in STORED;
  ModuleNotFoundError without the library.
  """
  where = os.fspath(path)
  library = _library()
  with naming(f'{where}: not a GGUF file that can be read'):
    reader = library.GGUFReader(where)
    fields = {name: field.contents() for name, field in reader.fields.items()}
  kind = fields.get('general.architecture')
  if kind != 'llama':
    raise CheckpointError(f'{where}: general.architecture={kind!r}; expected llama')
  tensors = {tensor.name: tensor for tensor in reader.tensors}
  for name, tensor in tensors.items():
    if tensor.tensor_type.name not in STORED:
      raise CheckpointError(f'{where}: {name} is stored as {tensor.tensor_type.name}; expected one of {STORED}')
  return Gguf(where, fields, tensors)


def _library() -> Any:
  """The `gguf` package, which `pip install -e '.[gguf]'` brings."""
  return importlib.import_module('gguf')


def published_name(name: str) -> str:
  """`blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`. Raises CheckpointError for an unknown name."""
  if name in TOP_NAMES:
    return TOP_NAMES[name]
  match = _LAYER.fullmatch(name)
  if match is None or match[2] not in LAYER_NAMES:
    raise CheckpointError(f'tensor {name!r} has no place in a Llama decoder')
  return f'model.layers.{match[1]}.{LAYER_NAMES[match[2]]}.weight'


def half_split(rows: np.ndarray, heads: int) -> np.ndarray:
  """Rows [heads · H, in] from adjacent-pair to half-split rotary order: row 2i of a head becomes row i, 2i+1 H/2 + i.

  Without it nothing fails and text stays fluent; only logits differ.
  """
  pairs = rows.reshape(heads, -1, 2, rows.shape[-1])
  return pairs.swapaxes(1, 2).reshape(rows.shape)


def config(file: Gguf) -> dict:
  """The `config.json` of the published folder. Raises CheckpointError for what the decoder cannot do."""
  with naming(file.path):
    return _config(file)


def _config(file: Gguf) -> dict:
  fields = file.fields
  get = lambda key: require(fields, f'llama.{key}')
  kind = fields.get('llama.rope.scaling.type', 'none')
  if kind != 'none':
    raise CheckpointError(f'llama.rope.scaling.type={kind!r}; expected none')
  if fields.get('llama.expert_count'):
    raise CheckpointError(f'llama.expert_count={fields["llama.expert_count"]}; expected a decoder without experts')
  width = get('embedding_length')
  heads = get('attention.head_count')
  head_dim = fields.get('llama.attention.key_length', width // heads)
  rotated = fields.get('llama.rope.dimension_count', head_dim)
  if rotated != head_dim:
    raise CheckpointError(f'llama.rope.dimension_count={rotated}; expected all {head_dim} of a head')
  return {
    'model_type': 'llama',
    'architectures': ['LlamaForCausalLM'],
    'vocab_size': file.shape('token_embd.weight')[0],
    'hidden_size': width,
    'num_hidden_layers': get('block_count'),
    'num_attention_heads': heads,
    'num_key_value_heads': fields.get('llama.attention.head_count_kv', heads),
    'head_dim': head_dim,
    'intermediate_size': get('feed_forward_length'),
    'rms_norm_eps': _shortest(get('attention.layer_norm_rms_epsilon')),
    'rope_theta': _shortest(fields.get('llama.rope.freq_base', 10000.0)),
    'hidden_act': 'silu',
    'attention_bias': False,
    'mlp_bias': False,
    'tie_word_embeddings': 'output.weight' not in file.tensors,
    'max_position_embeddings': get('context_length'),
  }


def _shortest(value: float) -> float:
  """The decimal that a float32 of the file was written from: 1e-05, not 9.999999747378752e-06."""
  return float(str(np.float32(value)))


def tokenizer(file: Gguf) -> PreTrainedTokenizerFast:
  """The tokenizer of the file's metadata, with its chat template.

  Raises CheckpointError for a tokenizer that is not byte-level BPE with a split in SPLITS.
  """
  with naming(file.path):
    return _tokenizer(file.fields)


def _tokenizer(fields: Mapping[str, Any]) -> PreTrainedTokenizerFast:
  from tokenizers import AddedToken, Tokenizer, decoders, models
  from transformers import PreTrainedTokenizerFast

  model = fields.get('tokenizer.ggml.model')
  split = fields.get('tokenizer.ggml.pre', 'gpt-2')
  if model != 'gpt2' or split not in SPLITS:
    raise CheckpointError(
      f'tokenizer.ggml.model={model!r}, tokenizer.ggml.pre={split!r}; expected gpt2 and one of {SPLITS}'
    )
  tokens = require(fields, 'tokenizer.ggml.tokens')
  merges = [tuple(line.split(' ')) for line in require(fields, 'tokenizer.ggml.merges')]
  vocab = {token: number for number, token in enumerate(tokens)}
  try:
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
  except Exception as error:  # the library raises bare Exception
    raise CheckpointError(f'tokenizer.ggml.tokens and merges do not fit: {error}') from error
  made.pre_tokenizer = _pre_tokenizer(split)
  made.decoder = decoders.ByteLevel()
  kinds = require(fields, 'tokenizer.ggml.token_type')
  special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == SPECIAL]
  made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
  options = {}
  for role, key in (('bos_token', 'bos'), ('eos_token', 'eos'), ('pad_token', 'padding'), ('unk_token', 'unknown')):
    number = fields.get(f'tokenizer.ggml.{key}_token_id')
    if number is not None:
      options[role] = tokens[number]
  wrapped = PreTrainedTokenizerFast(tokenizer_object=made, **options)
  wrapped.chat_template = fields.get('tokenizer.chat_template')
  return wrapped


def _pre_tokenizer(split: str) -> Any:
  from tokenizers import pre_tokenizers

  gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
  if split == 'gpt-2':
    return gpt2
  return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
