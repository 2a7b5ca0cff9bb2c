"""The `config.json` of published folders: TTS in the original layout and that of transformers, and Realtime.

Names drifted: sub-configs say `vibepod_…` or `vibevoice_…`. Ratios run in the decoder's order in the original layout
and in the encoder's in that of transformers, which also stores the deviation of the noise scale, not of the noise.
"""

from typing import Any

from core.decoder import hf_config as language_config
from core.files.config import Keys, check, naming, require
from core.files.store import CheckpointError
from vibevoice.config import Config, HeadConfig, RealtimeConfig, TokenizerConfig, split
from vibevoice.tokenizer.codec import SPREAD

TTS_TYPES = ('vibevoice', 'vibepod')
REALTIME_TYPES = ('vibevoice_streaming', 'vibepod_streaming')
ASR_TYPES = ('vibevoice_asr', 'vibepod_asr', 'vibevoice_asr_streaming')

# transformers' names of the special tokens; the original layout leaves them to the tokenizer.
TOKENS = {
  'audio_bos_token_id': 'start',
  'audio_eos_token_id': 'end',
  'audio_token_id': 'slot',
  'eos_token_id': 'eos',
}
MODEL_KEYS = Keys(
  read=(
    *TOKENS,
    'acoustic_tokenizer_config',
    'audio_config',
    'decoder_config',
    'diffusion_head_config',
    'negative_token_id',
    'semantic_model_config',
    'semantic_tokenizer_config',
    'text_config',
    'tts_backbone_num_hidden_layers',
  ),
  # Repeated from the sub-configs, or about training.
  ignored=(
    'acoustic_vae_dim',
    'diffusion_loss_weight',
    'hidden_size',
    'semantic_vae_dim',
    'tie_word_embeddings',
    'vocab_size',
  ),
)
ORIGINAL_TOKENIZER = Keys(
  read=(
    'decoder_depths',
    'decoder_n_filters',
    'decoder_ratios',
    'encoder_depths',
    'encoder_n_filters',
    'encoder_ratios',
    'fix_std',
    'layer_scale_init_value',
    'layernorm_eps',
    'std_dist_type',
    'vae_dim',
    'weight_init_value',
  ),
  fixed={
    'causal': (True,),
    'channels': (1,),
    'conv_bias': (True,),
    'conv_norm': ('none',),
    'corpus_normalize': (0, 0.0),
    'disable_last_norm': (True,),
    'layernorm': ('RMSNorm',),
    'layernorm_elementwise_affine': (True,),
    'mixer_layer': ('depthwise_conv',),
    'pad_mode': ('constant',),
  },
)
ORIGINAL_KERNEL, ORIGINAL_MLP_RATIO = 7, 4  # constants of the original code
TRANSFORMERS_TOKENIZER = Keys(
  read=(
    'depths',
    'downsampling_ratios',
    'ffn_expansion',
    'hidden_size',
    'kernel_size',
    'layer_scale_init_value',
    'num_filters',
    'rms_norm_eps',
    'vae_std',
  ),
  fixed={'channels': (1,), 'hidden_act': ('gelu',)},
)
HEAD_KEYS = Keys(
  read=(
    'frequency_embedding_size',
    'head_ffn_ratio',
    'head_layers',
    'hidden_size',
    'latent_size',
    'num_hidden_layers',
    'rms_norm_eps',
  ),
  fixed={
    'ddpm_beta_schedule': ('cosine', 'squaredcos_cap_v2'),
    'ddpm_num_steps': (1000,),
    'diffusion_max_period': (10000,),
    'diffusion_type': ('ddpm',),
    'hidden_act': ('silu',),
    'mlp_bias': (False,),
    'prediction_type': ('v_prediction',),
  },
  # Steps and repeats are arguments here; the width is three times the model's, which a port's config may not say.
  ignored=('ddpm_batch_mul', 'ddpm_num_inference_steps', 'intermediate_size', 'speech_vae_dim'),
)


def config_from(h: dict, where: str = 'config') -> tuple[Config | RealtimeConfig, str]:
  """(configuration, layout 'original' or 'transformers') of a `config.json`, which messages call `where`.

  Raises CheckpointError for a model of another kind, a missing key, and a key or value that is not supported.
  """
  with naming(where):
    kind = require(h, 'model_type')
    if kind in ASR_TYPES or (kind in TTS_TYPES and 'diffusion_head_config' not in h):
      raise CheckpointError(f'model_type {kind!r} without a diffusion head recognises speech; expected TTS or Realtime')
    if kind not in (*TTS_TYPES, *REALTIME_TYPES):
      raise CheckpointError(f'model_type {kind!r}; expected one of {[*TTS_TYPES, *REALTIME_TYPES]}')
    check(h, MODEL_KEYS)
    if kind in REALTIME_TYPES:
      return _realtime_from(h), 'original'
    if 'text_config' in h:
      return _transformers_from(h), 'transformers'
    return _original_from(h), 'original'


def _original_from(h: dict) -> Config:
  return Config(
    language=_language(h, 'decoder_config'),
    acoustic=_original_tokenizer(h, 'acoustic_tokenizer_config'),
    semantic=_original_tokenizer(h, 'semantic_tokenizer_config'),
    head=_head(h),
    **_tokens(h),
  )


def _transformers_from(h: dict) -> Config:
  return Config(
    language=_language(h, 'text_config'),
    acoustic=_transformers_tokenizer(h, 'audio_config', noisy=True),
    semantic=_transformers_tokenizer(h, 'semantic_model_config', noisy=False),
    head=_head(h),
    **_tokens(h),
  )


def _realtime_from(h: dict) -> RealtimeConfig:
  whole = _language(h, 'decoder_config')
  upper_depth = require(h, 'tts_backbone_num_hidden_layers', kind=int)
  if not 0 < upper_depth < whole.depth:
    raise CheckpointError(f'tts_backbone_num_hidden_layers={upper_depth}; expected 1 to {whole.depth - 1}')
  lower, upper = split(whole, whole.depth - upper_depth)
  acoustic = _original_tokenizer(h, 'acoustic_tokenizer_config')
  negative = {}
  if 'negative_token_id' in h:
    negative = {'negative': h['negative_token_id']}
  return RealtimeConfig(lower=lower, upper=upper, acoustic=acoustic, head=_head(h), **negative)


def _tokens(h: dict) -> dict[str, int]:
  return {field: require(h, key, kind=int) for key, field in TOKENS.items() if h.get(key) is not None}


def _language(h: dict, key: str):
  return language_config.config_from(require(h, key), key)


def _original_tokenizer(parent: dict, key: str) -> TokenizerConfig:
  h = require(parent, key)
  with naming(key):
    check(h, ORIGINAL_TOKENIZER)
    ratios = _numbers(require(h, 'encoder_ratios'))
    depths = _numbers(require(h, 'encoder_depths'))
    filters = require(h, 'encoder_n_filters', kind=int)
    _mirrored(h, 'decoder_ratios', ratios)
    _mirrored(h, 'decoder_depths', depths[::-1])
    if h.get('decoder_n_filters') not in (None, filters):
      raise CheckpointError(f'decoder_n_filters={h["decoder_n_filters"]}; expected {filters}, as of the encoder')
    return TokenizerConfig(
      latent=require(h, 'vae_dim', kind=int),
      filters=filters,
      ratios=ratios[::-1],
      depths=depths,
      kernel=ORIGINAL_KERNEL,
      mlp_ratio=ORIGINAL_MLP_RATIO,
      eps=require(h, 'layernorm_eps'),
      sampling=require(h, 'std_dist_type'),
      std=float(require(h, 'fix_std')),
      layer_scale=require(h, 'layer_scale_init_value'),
      init_std=require(h, 'weight_init_value'),
    )


def _mirrored(h: dict, key: str, expected: tuple[int, ...]) -> None:
  """The decoder mirrors the encoder; a null says the same."""
  if h.get(key) is not None and _numbers(h[key]) != expected:
    raise CheckpointError(f'{key}={h[key]!r}; expected {list(expected)}, the mirror of the encoder')


def _numbers(value: Any) -> tuple[int, ...]:
  """Whole numbers given as a list or as '3-3-8'."""
  parts = value
  if isinstance(value, str):
    parts = value.split('-')
  return tuple(int(part) for part in parts)


def _transformers_tokenizer(parent: dict, key: str, *, noisy: bool) -> TokenizerConfig:
  """noisy: the tokenizer whose latents are drawn; the other stores a deviation, too, but never uses it."""
  h = require(parent, key)
  with naming(key):
    check(h, TRANSFORMERS_TOKENIZER)
    std = 0.0
    if noisy:
      std = SPREAD * require(h, 'vae_std')
    return TokenizerConfig(
      latent=require(h, 'hidden_size', kind=int),
      filters=require(h, 'num_filters', kind=int),
      ratios=_numbers(require(h, 'downsampling_ratios')),
      depths=_numbers(require(h, 'depths')),
      kernel=require(h, 'kernel_size', kind=int),
      mlp_ratio=require(h, 'ffn_expansion', kind=int),
      eps=require(h, 'rms_norm_eps'),
      sampling='gaussian' if std else 'none',
      std=std,
      layer_scale=require(h, 'layer_scale_init_value'),
      init_std=h.get('initializer_range', 0.01),
    )


def _head(parent: dict) -> HeadConfig:
  h = require(parent, 'diffusion_head_config')
  with naming('diffusion_head_config'):
    check(h, HEAD_KEYS)
    ratio = h.get('head_ffn_ratio', 3)
    if ratio != int(ratio):
      raise CheckpointError(f'head_ffn_ratio={ratio}; expected a whole number')
    return HeadConfig(
      width=require(h, 'hidden_size', kind=int),
      latent=require(h, 'latent_size', kind=int),
      depth=require(h, 'head_layers', 'num_hidden_layers', kind=int),
      mlp_ratio=int(ratio),
      eps=require(h, 'rms_norm_eps'),
      frequency_width=h.get('frequency_embedding_size') or 256,
    )
