"""SmolLM2-135M-Instruct, converted from GGUF: token ids, logits against plain numpy, greedy text."""

import functools

import jax
import numpy as np
import pytest

from core import decoder
from core.files import convert
from core.files.tokenizers import load_tokenizer
from tests.real import gguf_llama

pytestmark = pytest.mark.real

SENTENCE = 'The capital of France is Paris, a city of 2 million people on the Seine, and its oldest bridge is'


@pytest.fixture(scope='module')
def folder(smollm2_file, tmp_path_factory):
  """The file converted to an ordinary folder."""
  target = tmp_path_factory.mktemp('smollm2')
  convert.convert(smollm2_file, target)
  return target


@pytest.fixture(scope='module')
def model(folder):
  """(logits function of a list of tokens, tokenizer), of the converted folder."""
  config, params = decoder.load(folder, dtype=np.float32)
  assert config == decoder.CONFIGS['smollm2-135m']
  apply = jax.jit(functools.partial(decoder.apply, config=config))

  def logits(tokens: list[int]) -> np.ndarray:
    """float32 [time, vocab]; attention is causal, so padding on the right changes nothing."""
    padded = np.zeros((1, 32), np.int32)
    padded[0, : len(tokens)] = tokens
    return np.asarray(apply(params, tokens=padded).logits)[0, : len(tokens)]

  return logits, load_tokenizer(folder)


def test_the_file_is_read_whole(smollm2):
  config, tensors = smollm2
  assert (config.depth, config.width, config.heads, config.kv_heads, config.vocab) == (30, 576, 9, 3, 49152)
  assert len(tensors) == 272
  assert sum(array.size for array in tensors.values()) == 134_515_008


def test_tokens(model):
  _, tokenizer = model
  assert tokenizer.encode('The capital of France is') == [504, 3575, 282, 4649, 314]


def test_the_chat_template_adds_the_default_system_turn(model):
  _, tokenizer = model
  text = tokenizer.apply_chat_template([{'role': 'user', 'content': 'Hi'}], tokenize=False, add_generation_prompt=True)
  assert text.startswith('<|im_start|>system\nYou are a helpful AI assistant')
  assert text.endswith('<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n')
  assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)


def test_logits_equal_a_plain_forward_pass(model, smollm2):
  logits, tokenizer = model
  config, tensors = smollm2
  tokens = tokenizer.encode(SENTENCE)
  want = gguf_llama.numpy_logits(config, tensors, tokens)
  got = logits(tokens)
  assert np.abs(got - want).max() < 5e-4
  np.testing.assert_array_equal(got.argmax(-1), want.argmax(-1))


def test_greedy_text_is_that_of_the_right_rotary_order(model):
  """Rows left in the file's order give fluent text too, but a different one."""
  logits, tokenizer = model
  tokens = tokenizer.encode('The capital of France is')
  prompt = len(tokens)
  for _ in range(8):
    tokens.append(int(logits(tokens)[-1].argmax()))
  assert tokenizer.decode(tokens[prompt:]) == ' Paris.\n\nThe answer is:'
