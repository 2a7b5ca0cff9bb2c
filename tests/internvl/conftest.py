"""Tokenizers shared by the tests of InternVL's input side."""

import pytest

from core.files.tokenizers import byte_tokenizer
from internvl.inputs.templates import IMAGE_TOKENS, LAYOUTS, MARKUP

SPECIAL = [
  '<|endoftext|>',
  *dict.fromkeys(t for layout in LAYOUTS.values() for t in layout.tokens),
  *IMAGE_TOKENS,
  *MARKUP,
]


@pytest.fixture(scope='session')
def byte_level():
  return byte_tokenizer(SPECIAL, eos='<|im_end|>', pad='<|endoftext|>')


@pytest.fixture(scope='session')
def trained_bpe():
  """A byte-level BPE with a few hundred merges and Qwen's way of splitting text, trained here."""
  from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
  from transformers import PreTrainedTokenizerFast

  tokenizer = Tokenizer(models.BPE())
  tokenizer.normalizer = normalizers.NFC()
  split = Regex(r'[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+')
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(split, 'isolated'), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
  )
  tokenizer.decoder = decoders.ByteLevel()
  text = (
    'system\nuser\nassistant\n\n\nFrame1: Image-2: What is the sum of both digits?\n yes no final '
    'analysis 你是书生·万象 the answer is seven\n\n'
  )
  tokenizer.train_from_iterator(
    [text] * 50,
    trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
  )
  tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
  return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token='<|im_end|>', pad_token='<|endoftext|>')
