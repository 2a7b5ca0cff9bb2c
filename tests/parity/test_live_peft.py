"""Adapters against `peft` (torch) live: its folders read here, and ours read there."""

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip('torch')
peft = pytest.importorskip('peft')
transformers = pytest.importorskip('transformers')

from core import decoder  # noqa: E402 - after the skips
from core.params import fold  # noqa: E402

TOKENS = np.arange(3, 19, dtype=np.int32)[None]
ATOL = 2e-4


@pytest.fixture
def base(tmp_path):
  """A folder that both sides load."""
  config, r = decoder.CONFIGS['tiny'], np.random.default_rng(0)
  scaled = lambda s: r.standard_normal(s.shape, np.float32) / np.float32(s.fan_in**0.5)
  decoder.save(tmp_path / 'base', config, jax.tree.map(scaled, decoder.spec(config)))
  return tmp_path / 'base'


def theirs(base):
  return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def logits(net) -> np.ndarray:
  with torch.no_grad():
    return net(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()


@pytest.mark.parametrize('rslora', [False, True])
def test_an_adapter_of_peft_computes_the_same_here(rslora, base, tmp_path):
  modules = ['q_proj', 'o_proj', 'gate_proj', 'down_proj']
  settings = peft.LoraConfig(
    r=4, lora_alpha=6, target_modules=modules, use_rslora=rslora, init_lora_weights=False, task_type='CAUSAL_LM'
  )
  torch.manual_seed(0)
  net = peft.get_peft_model(theirs(base), settings).eval()
  net.save_pretrained(tmp_path / 'adapter')
  config, adapted = decoder.load(base, adapter=tmp_path / 'adapter')
  for params in (adapted, fold(adapted)):
    np.testing.assert_allclose(decoder.apply(params, config, TOKENS).logits, logits(net), atol=ATOL)
  decoder.save_adapter(tmp_path / 'ours', config, adapted)
  again = peft.PeftModel.from_pretrained(theirs(base), tmp_path / 'ours').eval()
  np.testing.assert_allclose(logits(again), decoder.apply(adapted, config, TOKENS).logits, atol=ATOL)
