"""The comparison with the stored results sees each error it exists for: at least ten times what it allows."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from einops import rearrange

import core.decoder.model
from core import encoder, layers, moe
from internvl import projector, vision
from tests.parity import ours
from tests.parity.test_fixtures import read


def _config(**changes):
  """A change of the decoder's configuration."""

  def apply(config, params, monkeypatch):
    language = dataclasses.replace(ours.language(config), **changes)
    whole = language if language.__class__ is config.__class__ else dataclasses.replace(config, language=language)
    return whole, params

  return apply


def _vision_config(**changes):
  def apply(config, params, monkeypatch):
    return dataclasses.replace(config, vision=dataclasses.replace(config.vision, **changes)), params

  return apply


def _patch(module, name, value):
  """Another function or constant in a module of ours."""

  def apply(config, params, monkeypatch):
    monkeypatch.setattr(module, name, value)
    return config, params

  return apply


def _no_sinks(config, params, monkeypatch):
  attn = params.language.blocks.attn
  far = attn.replace(sinks=jnp.full_like(attn.sinks, -1e9))
  return config, params.replace(language=params.language.replace(blocks=params.language.blocks.replace(attn=far)))


def _transposed_shuffle(x, block):
  """The "v1" order: the output grid is transposed."""
  side = round(x.shape[1] ** 0.5) // block
  return rearrange(x, 'm (r y c x) d -> m (c r) (y x d)', r=side, y=block, x=block, c=side)


def _channel_major_shuffle(x, block):
  side = round(x.shape[1] ** 0.5) // block
  return rearrange(x, 'm (r y c x) d -> m (r c) (d y x)', r=side, y=block, x=block, c=side)


def _full_width_norm(x, scale, eps):
  """q/k norm over all heads together where each head has its own."""
  if x.ndim != 4:
    return layers.rms_norm(x, scale, eps)
  flat = x.reshape(*x.shape[:2], -1)
  return layers.rms_norm(flat, jnp.tile(scale, x.shape[2]), eps).reshape(x.shape)


def _per_head_norm(x, scale, eps):
  """q/k norm of each head of [B, T, N, H] on its own where one norm spans the width."""
  return layers.rms_norm(x, scale.reshape(x.shape[2:]), eps)


def _tower_gelu(config, params, monkeypatch):
  monkeypatch.setitem(encoder.ACTIVATIONS, 'gelu', _tanh_gelu)
  return config, params


def _unnormalised_router(config, params, monkeypatch):
  original = moe.route

  def route(p, x, c):
    _, chosen, logits = original(p, x, c)
    return jnp.take_along_axis(jax.nn.softmax(logits, -1), chosen, -1), chosen, logits

  monkeypatch.setattr(moe, 'route', route)
  return config, params


_tanh_gelu = lambda x: jax.nn.gelu(x, approximate=True)

MUTATIONS = {
  'GELU of the tower': ('300m-qwen3', _tower_gelu),
  'GELU of the projector': ('300m-qwen3', _patch(projector, 'gelu', _tanh_gelu)),
  'eps of the decoder': ('300m-qwen3', _config(norm_eps=1e-3)),
  'eps of the tower, LayerNorm': ('300m-qwen3', _vision_config(norm_eps=1e-6)),
  'eps of the tower, RMSNorm': ('6b-qwen3', _vision_config(norm_eps=1e-6)),
  'eps of the tower q/k norm': ('6b-qwen3', _patch(vision, 'QK_NORM_EPS', 1e-3)),
  'eps of the projector': ('300m-qwen3', _patch(projector, 'NORM_EPS', 1e-6)),
  'pixel shuffle v1': ('300m-qwen3', _patch(projector, 'pixel_shuffle', _transposed_shuffle)),
  'pixel shuffle by channel': ('300m-qwen3', _patch(projector, 'pixel_shuffle', _channel_major_shuffle)),
  'decoder q/k norm over the full width': ('300m-qwen3', _patch(core.decoder.model, 'rms_norm', _full_width_norm)),
  'tower q/k norm per head': ('6b-qwen3', _patch(encoder, '_norm_heads', _per_head_norm)),
  'rope base': ('300m-qwen3', _config(rope_theta=770.0)),
  'no YaRN': ('6b-gpt_oss', _config(rope_scaling=None)),
  'no Llama 3 rope': ('lm-llama', _config(rope_scaling=None)),
  'no sinks': ('6b-gpt_oss', _no_sinks),
  'window off by one': ('6b-gpt_oss', _config(windows=(6, None))),
  'windows in the other order': ('6b-gpt_oss', _config(windows=(None, 5))),
  'router not renormalised': ('300m-qwen3_moe', _unnormalised_router),
  'expert activation': ('6b-gpt_oss', _patch(moe, 'GPT_OSS_ALPHA', 1.0)),
}


@pytest.mark.slow
@pytest.mark.parametrize('mutation', MUTATIONS)
def test_an_error_is_seen(mutation, monkeypatch):
  case, mutate = MUTATIONS[mutation]
  config, params, x, want = read(case)
  del want['greedy'], want['loss']
  config, params = mutate(config, params, monkeypatch)
  excess = ours.stage_excess(ours.stages(params, config, x), want)
  assert max(excess.values()) >= 10, excess
