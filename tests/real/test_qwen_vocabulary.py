"""Qwen's published ranks as a tokenizer.json."""

import unicodedata

import pytest

from core.files import byte_pairs
from core.files.tokenizers import load_tokenizer

pytestmark = pytest.mark.real


@pytest.fixture(scope='module')
def ranked(qwen_ranks):
  return byte_pairs.read_ranks(qwen_ranks)


@pytest.fixture(scope='module')
def tokenizer(ranked, tmp_path_factory):
  folder = tmp_path_factory.mktemp('qwen')
  byte_pairs.qwen_tokenizer(ranked).save_pretrained(folder)
  return load_tokenizer(folder)


def test_ranks_and_merges(ranked):
  assert len(ranked) == 151_643
  assert ranked[0] == b'!'
  assert len(byte_pairs.merges(ranked)) == 151_387


@pytest.mark.parametrize(
  ('text', 'ids'),
  [
    ('Hello, world!', [9707, 11, 1879, 0]),
    ('你好，世界', [108386, 3837, 99489]),
    ('3.14159', [18, 13, 16, 19, 16, 20, 24]),
    ('cafe\u0301', [924, 58858]),
    ('café', [924, 58858]),
    ('<|im_start|>', [151_644]),
    ('<|video_pad|>', [151_656]),
  ],
)
def test_published_ids(tokenizer, text, ids):
  assert tokenizer.encode(text, add_special_tokens=False) == ids
  assert tokenizer.decode(ids) == unicodedata.normalize('NFC', text)
