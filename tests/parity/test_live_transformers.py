"""Ours against `transformers` (torch) live, with fresh draws: what the stored results show for one draw."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from core import decoder, layers, moe
from core.decoder import hf_config
from internvl import vision
from tests.parity import ours, reference

pytestmark = pytest.mark.parity
BFLOAT16 = 0.05  # relative L2 of the logits: eight bits of mantissa through a handful of layers


@pytest.mark.parametrize('seed', [11, 12])
@pytest.mark.parametrize('case', reference.CASES)
def test_equals_transformers(case, seed, tmp_path):
  net, x = reference.model(case, seed), reference.inputs(case, seed)
  reference.save(net, tmp_path)
  want = reference.run(net, x)
  reference.save_gradients(net, tmp_path / 'gradients')
  config, params = ours.load(tmp_path)
  loss = want.pop('loss')
  stages, value, gradients = ours.results(params, config, x)
  excess = ours.stage_excess(stages, want)
  assert max(excess.values()) <= 1, excess
  assert abs(value - loss) <= ours.LOSS
  excess = ours.gradient_excess(gradients, load_file(tmp_path / 'gradients' / 'model.safetensors'))
  assert max(excess.values()) <= 1, excess
  np.testing.assert_array_equal(ours.greedy(params, config, x, reference.NEW), reference.greedy(net, x))


@pytest.mark.parametrize('case', ['lm-gpt_oss', 'lm-qwen3', 'lm-llama'])
def test_long_positions_equal_transformers(case, tmp_path):
  """Past the length that YaRN and Llama 3 extend (32), and past any row seen in training."""
  net, x = reference.model(case, 5), reference.inputs(case, 5, length=120)
  reference.save(net, tmp_path)
  config, params = ours.load(tmp_path)
  for offset in (0, 1000):
    at = np.where(x['mask'], ours.positions(x) + offset, -1)
    want = reference.run(net, x, np.maximum(at, 0))
    got = ours.stages(params, config, x, at)
    excess = ours.stage_excess(got, {k: want[k] for k in got})
    # An angle of 1e3 in float32 is exact to 6e-5 only, on both sides.
    assert max(excess.values()) <= (1 if offset == 0 else 10), (offset, excess)


def test_yarn_frequencies_equal_transformers():
  from transformers import GptOssConfig
  from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding

  for truncate in (False, True):
    rope = {
      'rope_type': 'yarn',
      'rope_theta': 150000.0,
      'factor': 32.0,
      'original_max_position_embeddings': 4096,
      'beta_fast': 32.0,
      'beta_slow': 1.0,
      'truncate': truncate,
    }
    theirs = GptOssRotaryEmbedding(GptOssConfig(head_dim=64, rope_parameters=rope, max_position_embeddings=131072))
    yarn = layers.Yarn(32.0, 4096, truncate=truncate)
    np.testing.assert_allclose(layers.rope_frequencies(64, 150000.0, yarn), theirs.inv_freq.numpy(), rtol=1e-6)
    assert theirs.attention_scaling == pytest.approx(yarn.attention_factor, abs=1e-7)


@pytest.mark.parametrize('name', ['llama3.1-8b', 'llama3.2-1b'])
def test_llama_3_frequencies_equal_transformers(name):
  from transformers import LlamaConfig
  from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

  config = decoder.CONFIGS[name]
  theirs = LlamaRotaryEmbedding(LlamaConfig(**hf_config.config_to(config)))
  ours_ = layers.rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
  np.testing.assert_allclose(ours_, theirs.inv_freq.numpy(), rtol=1e-6)
  assert theirs.attention_scaling == config.rope_scaling.attention_factor


@pytest.mark.parametrize('size', [8, 12, 16, 22])
def test_other_tile_sizes_equal_transformers(size, tmp_path):
  """The position table resized bicubically, as torch does it."""
  net = reference.model('300m-qwen3', 3)
  reference.save(net, tmp_path)
  config, params = ours.load(tmp_path)
  pixels = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)
  want = net.model.vision_tower(torch.tensor(pixels).permute(0, 3, 1, 2)).last_hidden_state.detach().numpy()
  got, _ = vision.apply(params.vision, config.vision, pixels)
  assert np.abs(np.asarray(got) - want).max() <= ours.ACTIVATION * np.abs(want).max()


@pytest.mark.parametrize('case', ['300m-qwen3', '6b-gpt_oss', 'lm-qwen2'])
def test_bfloat16_stays_near_float32(case, tmp_path):
  net, x = reference.model(case, 4), reference.inputs(case, 4)
  reference.save(net, tmp_path)
  want = reference.run(net, x)['logits']
  config, params = ours.load(tmp_path, jnp.bfloat16)
  got = ours.stages(params, config, x)['logits'].astype(np.float32)
  assert np.linalg.norm(got - want) <= BFLOAT16 * np.linalg.norm(want)


@pytest.mark.parametrize('padded', [False, True])
def test_balance_loss_over_layers_equals_transformers(padded):
  """Drawn uneven enough that an average layer by layer is wrong in the second digit."""
  from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

  layers_, rows, time, experts, top_k = 3, 2, 7, 5, 2
  logits = np.random.default_rng(0).standard_normal((layers_, rows, time, experts)).astype(np.float32) * 2
  mask = np.ones((rows, time), np.int64)
  mask[1, 4:] = 0 if padded else 1
  flat = tuple(torch.tensor(x.reshape(-1, experts)) for x in logits)
  want = load_balancing_loss_func(flat, experts, top_k, torch.tensor(mask) if padded else None)
  chosen = np.argsort(-logits, -1)[..., :top_k]
  loads = jnp.stack([moe.load(*layer, jnp.asarray(mask)) for layer in zip(logits, chosen)])
  np.testing.assert_allclose(moe.balance(loads), float(want), rtol=1e-5)
  apart = np.mean([moe.balance(load[None]) for load in loads])
  assert abs(apart - float(want)) > 1e-2


@pytest.mark.parametrize(
  'keys', [{}, {'mscale': 0.7, 'mscale_all_dim': 0.3}, {'attention_factor': 1.3}, {'mscale': 0.7}]
)
def test_yarn_scale_equals_transformers(keys):
  from transformers import Qwen3Config
  from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

  rope = {'rope_type': 'yarn', 'rope_theta': 1e4, 'factor': 4.0, 'original_max_position_embeddings': 256} | keys
  config = decoder.CONFIGS['tiny']
  h = hf_config.config_to(config) | {'rope_parameters': rope}
  ours_ = hf_config.config_from(h)
  frequencies, scale = ROPE_INIT_FUNCTIONS['yarn'](
    Qwen3Config(**{k: v for k, v in h.items() if k != 'model_type'}), 'cpu'
  )
  np.testing.assert_allclose(ours_.rope_scaling.attention_factor, scale, rtol=1e-6)
  own = layers.rope_frequencies(config.head_dim, ours_.rope_theta, ours_.rope_scaling)
  np.testing.assert_allclose(own, frequencies.numpy(), rtol=1e-6)
