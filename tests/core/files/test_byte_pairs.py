"""Merges recovered from ranks: the tokenizer that made the ranks splits every text the same way."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.files import byte_pairs
from core.files.tokenizers import byte_characters, load_tokenizer

TEXT = ["the sum of two digits, it's 3.14; 你好 你们 émigré naïve 🙂🙃\n\n  the sums"] * 20


@pytest.fixture(scope='module')
def trained():
  """A Qwen-like byte-pair tokenizer with 150 merges, trained here."""
  from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

  tokenizer = Tokenizer(models.BPE())
  tokenizer.normalizer = normalizers.NFC()
  split = pre_tokenizers.Split(Regex(byte_pairs.QWEN_SPLIT), 'isolated')
  to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
  tokenizer.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
  return tokenizer


@pytest.fixture(scope='module')
def ranked(trained) -> list[bytes]:
  """Its tokens as bytes, in the order of training."""
  byte = {character: value for value, character in enumerate(byte_characters())}
  vocab = trained.get_vocab()
  return [bytes(byte[c] for c in token) for token in sorted(vocab, key=vocab.get)]


def write(path, tokens):
  lines = [f'{base64.b64encode(token).decode()} {rank}' for rank, token in enumerate(tokens)]
  path.write_text('\n'.join(lines) + '\n')
  return path


@pytest.fixture(scope='module')
def rebuilt(ranked, tmp_path_factory):
  """The tokenizer rebuilt from the ranks file and read back from its own tokenizer.json."""
  folder = tmp_path_factory.mktemp('qwen')
  path = write(folder / 'qwen.tiktoken', ranked)
  byte_pairs.qwen_tokenizer(byte_pairs.read_ranks(path)).save_pretrained(folder)
  return load_tokenizer(folder)


@given(text=st.text() | st.text(alphabet="thesum ofdig\n'32.é你e\u0301", max_size=60))
def test_texts_are_split_as_by_the_tokenizer_that_made_the_ranks(trained, rebuilt, text):
  assert rebuilt.encode(text, add_special_tokens=False) == trained.encode(text).ids


def test_special_tokens_follow_the_ranks(ranked, rebuilt):
  ids = [rebuilt.convert_tokens_to_ids(token) for token in byte_pairs.QWEN_SPECIAL]
  assert ids == list(range(len(ranked), len(ranked) + len(byte_pairs.QWEN_SPECIAL)))
  assert (rebuilt.eos_token, rebuilt.pad_token) == ('<|im_end|>', '<|endoftext|>')


def test_a_faulty_file_names_its_fault(tmp_path):
  single = [bytes([i]) for i in range(256)]
  path = tmp_path / 'x.tiktoken'
  cases = {
    'IQ== zero\n': r"x\.tiktoken:1: 'IQ== zero' is not a base64 string and a rank",
    '?? 0\n': r"x\.tiktoken:1: '\?\? 0' is not",
    'IQ== 0\nIg== 0\n': r'x\.tiktoken:2: rank 0 occurs twice',
    'IQ== 0\nIg== 2\n': 'rank 1 is missing',
    'IQ== 0\n': 'byte 0x00 is not among the tokens',
  }
  for text, message in cases.items():
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
      byte_pairs.read_ranks(path)
  with pytest.raises(ValueError, match=r"rank 256, b'abc': 3 pieces remain where a merge has 2"):
    byte_pairs.merges([*single, b'abc'])
