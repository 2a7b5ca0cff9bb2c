"""Whisper's tensors by the names of Hugging Face, and how the other layouts' names map to them."""

import re
from typing import Any

from core import encoder
from core.files.weights import From
from interp.whisper import decoder
from interp.whisper.model import Conv, Params

OUTPUT = 'proj_out.weight'  # tied to the embedding, and stored by some


def names() -> Params:
  """The tree of names."""
  return Params(**encoder_names('model.encoder.'), decoder=_decoder())


def encoder_names(at: str) -> dict[str, Any]:
  """The names of the encoder's tensors, which begin with `at`, by field of `Params`."""
  layer = at + 'layers.{layer}.'
  attn = _attention(f'{layer}self_attn.')
  block = encoder.Block(
    attn_norm=_norm(f'{layer}self_attn_layer_norm'),
    attn=encoder.Attention(**attn),
    mlp_norm=_norm(f'{layer}final_layer_norm'),
    **_mlp(layer),
  )
  return {
    'conv1': _conv(f'{at}conv1'),
    'conv2': _conv(f'{at}conv2'),
    'positions': From(f'{at}embed_positions.weight'),
    'blocks': block,
    'norm': _norm(f'{at}layer_norm'),
  }


def _decoder() -> decoder.Params:
  at = 'model.decoder.'
  layer = at + 'layers.{layer}.'
  block = decoder.Block(
    attn_norm=_norm(f'{layer}self_attn_layer_norm'),
    attn=decoder.Attention(**_attention(f'{layer}self_attn.')),
    cross_norm=_norm(f'{layer}encoder_attn_layer_norm'),
    cross=decoder.Attention(**_attention(f'{layer}encoder_attn.')),
    mlp_norm=_norm(f'{layer}final_layer_norm'),
    **_mlp(layer),
  )
  return decoder.Params(
    embed=From(f'{at}embed_tokens.weight'),
    positions=From(f'{at}embed_positions.weight'),
    blocks=block,
    norm=_norm(f'{at}layer_norm'),
  )


def _attention(at: str) -> dict[str, From]:
  def into(name):
    return From(f'{at}{name}_proj.weight', '(n h) d -> d n h')

  def bias(name):
    return From(f'{at}{name}_proj.bias', '(n h) -> n h')

  return {
    'q': into('q'),
    'q_bias': bias('q'),
    'k': into('k'),
    'v': into('v'),
    'v_bias': bias('v'),
    'o': From(f'{at}out_proj.weight', 'd (n h) -> n h d'),
    'o_bias': From(f'{at}out_proj.bias'),
  }


def _mlp(layer: str) -> dict[str, From]:
  return {
    'up': From(f'{layer}fc1.weight', 'o i -> i o'),
    'up_bias': From(f'{layer}fc1.bias'),
    'down': From(f'{layer}fc2.weight', 'o i -> i o'),
    'down_bias': From(f'{layer}fc2.bias'),
  }


def _norm(name: str) -> encoder.Norm:
  return encoder.Norm(scale=From(f'{name}.weight'), bias=From(f'{name}.bias'))


def _conv(name: str) -> Conv:
  return Conv(weight=From(f'{name}.weight', 'o i k -> k i o'), bias=From(f'{name}.bias'))


# OpenAI's names, rewritten in this order.
OPENAI = (
  (r'^(encoder|decoder)\.', r'model.\1.'),
  (r'\.positional_embedding$', '.embed_positions.weight'),
  (r'\.token_embedding\.', '.embed_tokens.'),
  (r'\.(ln_post|ln)\.', '.layer_norm.'),
  (r'\.blocks\.', '.layers.'),
  (r'\.cross_attn_ln\.', '.encoder_attn_layer_norm.'),
  (r'\.attn_ln\.', '.self_attn_layer_norm.'),
  (r'\.mlp_ln\.', '.final_layer_norm.'),
  (r'\.cross_attn\.', '.encoder_attn.'),
  (r'\.attn\.', '.self_attn.'),
  (r'\.(query|key|value|out)\.', lambda m: {'query': '.q', 'key': '.k', 'value': '.v', 'out': '.out'}[m[1]] + '_proj.'),
  (r'\.mlp\.0\.', '.fc1.'),
  (r'\.mlp\.2\.', '.fc2.'),
)

# CTranslate2's names of whole tensors, rewritten in this order; its fused projections are split apart.
CTRANSLATE2 = (
  (r'/', '.'),
  (r'^(encoder|decoder)\.', r'model.\1.'),
  (r'\.position_encodings\.encodings$', '.embed_positions.weight'),
  (r'\.embeddings\.', '.embed_tokens.'),
  (r'\.layer_(\d+)\.', r'.layers.\1.'),
  (r'\.self_attention\.layer_norm\.', '.self_attn_layer_norm.'),
  (r'\.attention\.layer_norm\.', '.encoder_attn_layer_norm.'),
  (r'\.ffn\.layer_norm\.', '.final_layer_norm.'),
  (r'\.ffn\.linear_0\.', '.fc1.'),
  (r'\.ffn\.linear_1\.', '.fc2.'),
  (r'\.self_attention\.linear_1\.', '.self_attn.out_proj.'),
  (r'\.attention\.linear_0\.', '.encoder_attn.q_proj.'),
  (r'\.attention\.linear_2\.', '.encoder_attn.out_proj.'),
  (r'\.gamma$', '.weight'),
  (r'\.beta$', '.bias'),
)


def rewritten(name: str, rules) -> str:
  """A name after all rules (pattern, replacement) in order."""
  for pattern, replacement in rules:
    name = re.sub(pattern, replacement, name)
  return name
