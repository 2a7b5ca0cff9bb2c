"""Qwen's published ranks as a tokenizer.json."""

import unicodedata

import pytest

from core.files import byte_pairs

pytestmark = pytest.mark.real


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
def test_published_ids(qwen_tokenizer, text, ids):
  assert qwen_tokenizer.encode(text, add_special_tokens=False) == ids
  assert qwen_tokenizer.decode(ids) == unicodedata.normalize('NFC', text)
