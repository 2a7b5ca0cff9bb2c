"""Writes the `config.json` that `vibevoice.files.config_in` reads and the published loaders expect."""

import dataclasses

from core.decoder import hf_config as language_config
from vibevoice.config import Config, HeadConfig, RealtimeConfig, TokenizerConfig
from vibevoice.files.config_in import ORIGINAL_KERNEL, ORIGINAL_MLP_RATIO, TOKENS
from vibevoice.tokenizer.codec import SPREAD

DEFAULT_INIT_STD = 0.01  # where ours is by fan-in, which no published key can say
ORIGINAL_FREQUENCIES = 256


def config_to(config: Config, layout: str) -> dict:
  """The `config.json` of a TTS model. Raises ValueError for what the layout cannot say."""
  tokens = {key: getattr(config, field) for key, field in TOKENS.items()}
  if layout == 'transformers':
    return tokens | {
      'model_type': 'vibevoice',
      'architectures': ['VibeVoiceForConditionalGeneration'],
      'text_config': language_config.config_to(config.language),
      'audio_config': _transformers_tokenizer(config.acoustic, 'vibevoice_acoustic_tokenizer'),
      'semantic_model_config': _transformers_tokenizer(config.semantic, 'vibevoice_acoustic_tokenizer_encoder'),
      'diffusion_head_config': _transformers_head(config.head),
      'tie_word_embeddings': config.language.tied,
    }
  return _other_than_default(tokens, Config) | {
    'model_type': 'vibevoice',
    'architectures': ['VibeVoiceForConditionalGeneration'],
    'decoder_config': language_config.config_to(config.language),
    'acoustic_tokenizer_config': _original_tokenizer(config.acoustic, 'acoustic', decodes=True),
    'semantic_tokenizer_config': _original_tokenizer(config.semantic, 'semantic', decodes=False),
    'diffusion_head_config': _original_head(config.head),
    'acoustic_vae_dim': config.acoustic.latent,
    'semantic_vae_dim': config.semantic.latent,
  }


def realtime_config_to(config: RealtimeConfig) -> dict:
  """The `config.json` of a Realtime model, in the original layout."""
  depth = config.lower.depth + config.upper.depth
  # There is no output matrix to tie.
  whole = dataclasses.replace(config.lower, depth=depth, final_norm=True, tied=False)
  negative = config.negative
  default = RealtimeConfig.__dataclass_fields__['negative'].default
  own = {} if negative == default else {'negative_token_id': negative}
  return own | {
    'model_type': 'vibevoice_streaming',
    'architectures': ['VibeVoiceStreamingForConditionalGenerationInference'],
    'decoder_config': language_config.config_to(whole),
    'acoustic_tokenizer_config': _original_tokenizer(config.acoustic, 'acoustic', decodes=True),
    'diffusion_head_config': _original_head(config.head),
    'acoustic_vae_dim': config.acoustic.latent,
    'tts_backbone_num_hidden_layers': config.upper.depth,
  }


def _other_than_default(tokens: dict[str, int], kind: type) -> dict[str, int]:
  """The original layout has no keys for tokens: only those that are not Qwen's are written."""
  fields = kind.__dataclass_fields__
  return {key: token for key, token in tokens.items() if token != fields[TOKENS[key]].default}


def _init_std(c: TokenizerConfig) -> float:
  if c.init_std is None:
    return DEFAULT_INIT_STD
  return c.init_std


def _original_tokenizer(c: TokenizerConfig, kind: str, *, decodes: bool) -> dict:
  if (c.kernel, c.mlp_ratio) != (ORIGINAL_KERNEL, ORIGINAL_MLP_RATIO):
    raise ValueError(
      f'tokenizer: kernel={c.kernel}, mlp_ratio={c.mlp_ratio} cannot be written in the original layout; '
      f'expected {ORIGINAL_KERNEL} and {ORIGINAL_MLP_RATIO}'
    )
  ratios = list(c.ratios[::-1])
  mirror = {'decoder_n_filters': c.filters, 'decoder_ratios': ratios, 'decoder_depths': None}
  return (mirror if decodes else {}) | {
    'model_type': f'vibevoice_{kind}_tokenizer',
    'causal': True,
    'channels': 1,
    'conv_bias': True,
    'conv_norm': 'none',
    'corpus_normalize': 0.0,
    'disable_last_norm': True,
    'encoder_depths': '-'.join(map(str, c.depths)),
    'encoder_n_filters': c.filters,
    'encoder_ratios': ratios,
    'fix_std': c.std,
    'layer_scale_init_value': c.layer_scale,
    'layernorm': 'RMSNorm',
    'layernorm_elementwise_affine': True,
    'layernorm_eps': c.eps,
    'mixer_layer': 'depthwise_conv',
    'pad_mode': 'constant',
    'std_dist_type': c.sampling,
    'vae_dim': c.latent,
    'weight_init_value': _init_std(c),
  }


def _transformers_tokenizer(c: TokenizerConfig, kind: str) -> dict:
  if c.sampling == 'fix':
    raise ValueError("tokenizer: sampling='fix' cannot be written in the layout of transformers; expected 'gaussian'")
  return {
    'model_type': kind,
    'channels': 1,
    'depths': list(c.depths),
    'downsampling_ratios': list(c.ratios),
    'ffn_expansion': c.mlp_ratio,
    'hidden_act': 'gelu',
    'hidden_size': c.latent,
    'initializer_range': _init_std(c),
    'kernel_size': c.kernel,
    'layer_scale_init_value': c.layer_scale,
    'num_filters': c.filters,
    'rms_norm_eps': c.eps,
    'vae_std': c.std / SPREAD,
  }


def _original_head(c: HeadConfig) -> dict:
  own = {} if c.frequency_width == ORIGINAL_FREQUENCIES else {'frequency_embedding_size': c.frequency_width}
  return own | {
    'model_type': 'vibevoice_diffusion_head',
    'ddpm_batch_mul': 4,
    'ddpm_beta_schedule': 'cosine',
    'ddpm_num_inference_steps': 20,
    'ddpm_num_steps': 1000,
    'diffusion_type': 'ddpm',
    'head_ffn_ratio': float(c.mlp_ratio),
    'head_layers': c.depth,
    'hidden_size': c.width,
    'latent_size': c.latent,
    'prediction_type': 'v_prediction',
    'rms_norm_eps': c.eps,
    'speech_vae_dim': c.latent,
  }


def _transformers_head(c: HeadConfig) -> dict:
  return {
    'model_type': 'vibevoice_diffusion',
    'frequency_embedding_size': c.frequency_width,
    'hidden_act': 'silu',
    'hidden_size': c.width,
    'intermediate_size': c.mlp_width,
    'latent_size': c.latent,
    'num_hidden_layers': c.depth,
    'rms_norm_eps': c.eps,
  }
