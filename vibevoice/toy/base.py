"""A small untrained TTS model as a folder: what training from scratch starts from."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

import jax

from core import decoder
from core.files.tokenizers import word_tokenizer
from vibevoice import model
from vibevoice.config import Config, HeadConfig, TokenizerConfig
from vibevoice.files import checkpoint
from vibevoice.inputs import prompt
from vibevoice.inputs.processor import SPECIAL
from vibevoice.toy import digits

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

VOCAB = 384
WIDTH = 128
# 15 frames a second instead of 7.5, and a hundredth of the published width: minutes on a CPU.
ACOUSTIC = TokenizerConfig(
  latent=32,
  filters=16,
  ratios=(40, 8, 5),
  depths=(0, 2, 2, 2),
  sampling='gaussian',
  std=0.2,
  layer_scale=0.4,
  init_std=None,
)
SEMANTIC = dataclasses.replace(ACOUSTIC, latent=16, sampling='none', std=0.0)
LANGUAGE = dataclasses.replace(
  decoder.CONFIGS['tiny'],
  vocab=VOCAB,
  width=WIDTH,
  depth=4,
  head_dim=32,
  mlp_width=3 * WIDTH,
  qk_norm=False,
  qkv_bias=True,
)


def vocabulary() -> 'PreTrainedTokenizerFast':
  """Bytes, merged to the words of prompts and digits, so that a prompt has about forty tokens."""
  corpus = [prompt.SYSTEM, prompt.VOICES, prompt.SCRIPT, prompt.OUTPUT, ' Speaker 0: ', digits.text(tuple(range(10)))]
  corpus.append(f' {digits.WORDS[0]}')
  return word_tokenizer(corpus, list(SPECIAL.values()), size=VOCAB)


def config(tokenizer: 'PreTrainedTokenizerFast') -> Config:
  """The model for a vocabulary with VibeVoice's special tokens."""
  ids = {role: tokenizer.convert_tokens_to_ids(token) for role, token in SPECIAL.items()}
  head = HeadConfig(width=WIDTH, latent=ACOUSTIC.latent, depth=3)
  return Config(language=LANGUAGE, acoustic=ACOUSTIC, semantic=SEMANTIC, head=head, **ids)


def write(folder: pathlib.Path, *, seed: int = 0) -> None:
  """Writes the model's folder with random weights, unless it has one."""
  if (folder / 'config.json').exists():
    return
  tokenizer = vocabulary()
  made = config(tokenizer)
  params = model.init(jax.random.key(seed), made)
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer.save_pretrained(folder)
  checkpoint.save(folder, made, params)
