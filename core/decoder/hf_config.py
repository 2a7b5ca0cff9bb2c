"""The `config.json` of published decoders: Qwen2/2.5, Qwen3, Qwen3-MoE, GPT-OSS and Llama.

Families differ by data only: FAMILIES says what each implies for `core.decoder.Config`, KEYS which keys its config has.
"""

from typing import Any

from core import moe
from core.decoder import hf_rope
from core.decoder import params as decoder
from core.files.config import CheckpointError, Keys, check, naming, require

FAMILIES = {
  'qwen2': {'qkv_bias': True, 'architecture': 'Qwen2ForCausalLM'},
  'qwen3': {'qk_norm': True, 'architecture': 'Qwen3ForCausalLM'},
  'qwen3_moe': {'qk_norm': True, 'moe': True, 'architecture': 'Qwen3MoeForCausalLM'},
  'gpt_oss': {'qkv_bias': True, 'out_bias': True, 'sinks': True, 'moe': True, 'architecture': 'GptOssForCausalLM'},
  'llama': {'architecture': 'LlamaForCausalLM'},
}
_STRUCTURE = ('qkv_bias', 'out_bias', 'qk_norm', 'sinks')

_READ = (
  'head_dim',
  'hidden_size',
  'intermediate_size',
  'layer_types',
  'max_position_embeddings',
  'max_window_layers',
  'num_attention_heads',
  'num_hidden_layers',
  'num_key_value_heads',
  'rms_norm_eps',
  'rope_parameters',
  'rope_scaling',
  'rope_theta',
  'sliding_window',
  'tie_word_embeddings',
  'use_sliding_window',
  'vocab_size',
)
_EXPERTS = ('moe_intermediate_size', 'num_experts', 'num_experts_per_tok', 'num_local_experts', 'router_aux_loss_coef')
_PLAIN = {'hidden_act': ('silu',), 'use_mrope': (False,)}
_QWEN3 = _PLAIN | {'attention_bias': (False,)}
_QWEN3_MOE = _QWEN3 | {'norm_topk_prob': (True,), 'decoder_sparse_step': (1,), 'mlp_only_layers': ([],)}
_LLAMA = _QWEN3 | {'mlp_bias': (False,), 'rope_interleaved': (False,)}
_GPT_OSS = _PLAIN | {
  'attention_bias': (True,),
  'swiglu_limit': (moe.GPT_OSS_LIMIT,),
  'swiglu_alpha': (moe.GPT_OSS_ALPHA,),
}
KEYS = {
  # Qwen2 has biases on q, k and v even if `attention_bias` is false.
  'qwen2': Keys(read=_READ, fixed=_PLAIN, ignored=('attention_bias',)),
  'qwen3': Keys(read=_READ, fixed=_QWEN3),
  'qwen3_moe': Keys(read=(*_READ, *_EXPERTS), fixed=_QWEN3_MOE),
  # Both ignored keys repeat others: num_experts_per_tok and rope_scaling's original length.
  'gpt_oss': Keys(read=(*_READ, *_EXPERTS), fixed=_GPT_OSS, ignored=('experts_per_token', 'initial_context_length')),
  'llama': Keys(read=_READ, fixed=_LLAMA, ignored=('transformers.js_config',)),
}
GPT_OSS_WINDOW = 128
LAYERS = ('full_attention', 'sliding_attention')


def family(config: decoder.Config) -> str:
  """The published `model_type` whose structure this configuration has. Raises ValueError when none has."""
  have = {k: getattr(config, k) for k in _STRUCTURE} | {'moe': config.moe is not None}
  for name, f in FAMILIES.items():
    if have == {k: f.get(k, False) for k in (*_STRUCTURE, 'moe')}:
      return name
  raise ValueError(f'no published family has the structure {have}')


def config_from(h: dict, where: str = 'config') -> decoder.Config:
  """The `config.json` of a decoder, which messages call `where`.

  Raises CheckpointError on an unknown model_type, a missing key, and a key or value that is not supported.
  """
  with naming(where):
    kind = _kind(h)
    check(h, KEYS[kind])
    heads = require(h, 'num_attention_heads', kind=int)
    width = require(h, 'hidden_size', kind=int)
    rope = h.get('rope_parameters') or h.get('rope_scaling') or {}
    theta = rope.get('rope_theta') or require(h, 'rope_theta')
    return decoder.Config(
      vocab=require(h, 'vocab_size', kind=int),
      width=width,
      depth=require(h, 'num_hidden_layers', kind=int),
      heads=heads,
      kv_heads=require(h, 'num_key_value_heads', kind=int),
      head_dim=h.get('head_dim') or width // heads,
      mlp_width=require(h, 'intermediate_size', kind=int),
      norm_eps=require(h, 'rms_norm_eps'),
      rope_theta=float(theta),
      rope_scaling=hf_rope.scaling(rope, h),
      windows=_windows(h, kind),
      moe=_experts(h, kind) if FAMILIES[kind].get('moe') else None,
      tied=bool(h.get('tie_word_embeddings', False)),
      max_length=require(h, 'max_position_embeddings', kind=int),
      **{k: FAMILIES[kind].get(k, False) for k in _STRUCTURE},
    )


def _kind(h: Any) -> str:
  if not isinstance(h, dict):
    raise CheckpointError(f'{h!r}; expected an object of keys and values')
  if h.get('quantization_config'):
    method = h['quantization_config'].get('quant_method', 'unknown')
    raise CheckpointError(
      f'quantization_config: the weights are stored quantised ({method}); expected bfloat16, float16 or float32'
    )
  kind = require(h, 'model_type')
  if kind not in FAMILIES:
    raise CheckpointError(f'model_type {kind!r} is unknown; expected one of {sorted(FAMILIES)}')
  return kind


def _experts(h: dict, kind: str) -> moe.Config:
  clamped = kind == 'gpt_oss'
  if not clamped and not h.get('norm_topk_prob', False):
    raise CheckpointError('norm_topk_prob is false; only renormalised top-k routing is supported')
  return moe.Config(
    experts=require(h, 'num_experts', 'num_local_experts', kind=int),
    top_k=require(h, 'num_experts_per_tok', kind=int),
    width=require(h, 'moe_intermediate_size', 'intermediate_size', kind=int),
    activation='clamped' if clamped else 'silu',
    bias=clamped,
    aux_coef=h.get('router_aux_loss_coef', 0.0),
  )


def _windows(h: dict, kind: str) -> tuple[int | None, ...]:
  """The window of each layer, as the shortest sequence that repeats."""
  depth = h['num_hidden_layers']
  layers = h.get('layer_types')
  if layers is None:
    layers = _default_layers(h, kind)
  unknown = sorted(set(layers) - set(LAYERS))
  if unknown or len(layers) != depth:
    raise CheckpointError(
      f'layer_types has {len(layers)} layers of kinds {sorted(set(layers))}; expected {depth} of {LAYERS}'
    )
  window = None
  if 'sliding_attention' in layers:
    window = require(h, 'sliding_window', kind=int)
  windows = tuple(window if layer == 'sliding_attention' else None for layer in layers)
  for period in range(1, depth):
    repeats, rest = divmod(depth, period)
    if rest == 0 and windows[:period] * repeats == windows:
      return windows[:period]
  return windows


def _default_layers(h: dict, kind: str) -> list[str]:
  """The kinds of layers of a config that does not list them."""
  depth = h['num_hidden_layers']
  if kind == 'gpt_oss':
    return [LAYERS[1 - n % 2] for n in range(depth)]
  sliding = bool(h.get('use_sliding_window')) and h.get('sliding_window') is not None
  first = h.get('max_window_layers', 28) if sliding else depth  # the default of transformers
  return [LAYERS[n >= first] for n in range(depth)]


def config_to(c: decoder.Config) -> dict:
  """The `config.json` a published loader expects."""
  kind = family(c)
  window = next((w for w in c.windows if w is not None), None)
  kinds = ['full_attention' if w is None else 'sliding_attention' for w in c.windows] * (c.depth // len(c.windows))
  h = {
    'model_type': kind,
    'architectures': [FAMILIES[kind]['architecture']],
    'vocab_size': c.vocab,
    'hidden_size': c.width,
    'num_hidden_layers': c.depth,
    'num_attention_heads': c.heads,
    'num_key_value_heads': c.kv_heads,
    'head_dim': c.head_dim,
    'intermediate_size': c.mlp_width,
    'rms_norm_eps': c.norm_eps,
    'rope_theta': c.rope_theta,
    'rope_parameters': hf_rope.written(c.rope_scaling, c.rope_theta),
    # transformers refuses a GPT-OSS config without a window, even where no layer uses it.
    'sliding_window': GPT_OSS_WINDOW if window is None and kind == 'gpt_oss' else window,
    'use_sliding_window': window is not None,
    'layer_types': kinds,
    'hidden_act': 'silu',
    'attention_bias': c.out_bias,
    'tie_word_embeddings': c.tied,
    'max_position_embeddings': c.max_length,
  }
  if c.moe:
    return h | _experts_to(c.moe)
  return h


def _experts_to(c: moe.Config) -> dict:
  shared = {'num_experts_per_tok': c.top_k, 'router_aux_loss_coef': c.aux_coef}
  if c.bias:  # GPT-OSS
    return shared | {'num_local_experts': c.experts, 'intermediate_size': c.width}
  return shared | {
    'num_experts': c.experts,
    'moe_intermediate_size': c.width,
    'norm_topk_prob': True,
    'decoder_sparse_step': 1,
    'mlp_only_layers': [],
  }
