"""Tensors by name: TTS in the original layout and that of transformers, Realtime in the original one."""

import dataclasses

from core.decoder import hf
from core.files.weights import From
from vibevoice import connector, realtime, scaling, tokenizer
from vibevoice.config import Config, RealtimeConfig
from vibevoice.diffusion import head
from vibevoice.files import tokenizer_names
from vibevoice.model import Params


@dataclasses.dataclass(frozen=True)
class Layout:
  """What a layout calls the parts. acoustic: prefix of the acoustic tokenizer's halves; semantic: of its encoder."""

  acoustic: str
  semantic: str
  acoustic_connector: str
  connector: tuple[str, str, str]  # first projection, norm, second projection
  head: str
  time: tuple[str, str]
  block_modulation: str
  modulation: str
  out: str
  scale: str
  bias: str


LAYOUTS = {
  'original': Layout(
    acoustic='model.acoustic_tokenizer.',
    semantic='model.semantic_tokenizer.encoder.',
    acoustic_connector='model.acoustic_connector.',
    connector=('fc1', 'norm', 'fc2'),
    head='model.prediction_head.',
    time=('t_embedder.mlp.0', 't_embedder.mlp.2'),
    block_modulation='adaLN_modulation.1',
    modulation='final_layer.adaLN_modulation.1',
    out='final_layer.linear',
    scale='model.speech_scaling_factor',
    bias='model.speech_bias_factor',
  ),
  'transformers': Layout(
    acoustic='model.audio_tower.',
    semantic='model.semantic_tokenizer_encoder.',
    acoustic_connector='model.multi_modal_projector.',
    connector=('linear_1', 'act', 'linear_2'),  # the port's `act` is the norm
    head='model.diffusion_head.',
    time=('timestep_proj.fc1', 'timestep_proj.fc2'),
    block_modulation='linear',
    modulation='final_layer.linear_1',
    out='final_layer.linear_2',
    scale='model.latent_scaling_factor',
    bias='model.latent_bias_factor',
  ),
}
OUTPUT = 'lm_head.weight'
# Stored with Realtime's upper stack, which is fed with hidden states and so never reads it.
UNUSED = ('model.tts_language_model.embed_tokens.weight',)


def names(config: Config, layout: str) -> Params:
  """The tree of a TTS model's names. Raises ValueError for an unknown layout."""
  if layout not in LAYOUTS:
    raise ValueError(f'layout {layout!r}; expected one of {sorted(LAYOUTS)}')
  at = LAYOUTS[layout]
  halves = {'encoder': f'{at.acoustic}encoder.', 'decoder': f'{at.acoustic}decoder.'}
  return Params(
    language=hf.names(config.language, body='model.language_model.', head=OUTPUT),
    acoustic=tokenizer_names.names(config.acoustic, layout, **halves),
    semantic=tokenizer_names.names(config.semantic, layout, encoder=at.semantic, decoder=None),
    acoustic_connector=_connector(at.acoustic_connector, at),
    semantic_connector=_connector('model.semantic_connector.', at),
    head=_head(at),
    scaling=_scaling(at),
  )


def realtime_names(config: RealtimeConfig) -> realtime.Params:
  """The tree of a Realtime model's names."""
  at = LAYOUTS['original']
  stop = 'tts_eos_classifier.'
  return realtime.Params(
    lower=hf.names(config.lower, body='model.language_model.'),
    upper=hf.names(config.upper, body='model.tts_language_model.'),
    types=From('model.tts_input_types.weight'),
    acoustic=_acoustic_decoder(config, at),
    connector=_connector(at.acoustic_connector, at),
    head=_head(at),
    stop=realtime.Stop(
      hidden=_matrix(f'{stop}fc1'),
      hidden_bias=From(f'{stop}fc1.bias'),
      out=_matrix(f'{stop}fc2'),
      out_bias=From(f'{stop}fc2.bias'),
    ),
    scaling=_scaling(at),
  )


def _acoustic_decoder(config: RealtimeConfig, at: Layout) -> tokenizer.Params:
  prefix = f'{at.acoustic}decoder.'
  return tokenizer_names.names(config.acoustic, 'original', encoder=None, decoder=prefix)


def _matrix(name: str) -> From:
  return From(f'{name}.weight', 'o i -> i o')


def _connector(prefix: str, at: Layout) -> connector.Params:
  first, norm, second = (prefix + name for name in at.connector)
  return connector.Params(
    up=_matrix(first),
    up_bias=From(f'{first}.bias'),
    norm=From(f'{norm}.weight'),
    out=_matrix(second),
    out_bias=From(f'{second}.bias'),
  )


def _head(at: Layout) -> head.Params:
  layer = at.head + 'layers.{layer}.'
  block = head.Block(
    norm=From(f'{layer}norm.weight'),
    modulation=From(f'{layer}{at.block_modulation}.weight', '(p e) d -> d p e'),
    gate=_matrix(f'{layer}ffn.gate_proj'),
    up=_matrix(f'{layer}ffn.up_proj'),
    down=_matrix(f'{layer}ffn.down_proj'),
  )
  return head.Params(
    noise=_matrix(f'{at.head}noisy_images_proj'),
    condition=_matrix(f'{at.head}cond_proj'),
    time_in=_matrix(at.head + at.time[0]),
    time_out=_matrix(at.head + at.time[1]),
    blocks=block,
    modulation=From(f'{at.head}{at.modulation}.weight', '(p e) d -> d p e'),
    out=_matrix(at.head + at.out),
  )


def _scaling(at: Layout) -> scaling.Params:
  return scaling.Params(scale=From(at.scale), bias=From(at.bias))
