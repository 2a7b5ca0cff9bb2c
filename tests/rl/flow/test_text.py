"""Text encoders: sizes as published, positions, conventions of the end of a text; tokenizers from files made here."""

import json

import jax
import numpy as np
import pytest

from core.files.store import CheckpointError
from core.files.tokenizers import byte_characters
from core.params import count
from rl.flow.files import text as files
from rl.flow.text import clip, t5, tokenizers
from tests.rl.flow import tiny


def test_published_sizes():
  assert count(clip.spec(clip.CONFIGS['L'])) == 123_060_480
  assert count(t5.spec(t5.CONFIGS['XXL'])) == 4_762_310_656
  for config in clip.CONFIGS.values():
    projected = config.projection is not None
    assert files.clip_config_from(files.clip_config_to(config), projected=projected) == config
  for config in t5.CONFIGS.values():
    assert files.t5_config_from(files.t5_config_to(config)) == config


def test_buckets():
  offsets = np.array([0, -1, -7, -8, -15, -16, -127, -128, -5000, 1, 8, 127, 5000])
  want = [0, 1, 7, 8, 9, 10, 15, 15, 15, 17, 24, 31, 31]
  np.testing.assert_array_equal(t5.buckets_of(offsets, 32, 128), want)


def test_end_of_text_by_both_conventions():
  tokens = np.array([[9, 1, 7, 7, 0], [9, 2, 3, 7, 7]])
  np.testing.assert_array_equal(clip.end_of_text(tokens, 7), [2, 3])
  np.testing.assert_array_equal(clip.end_of_text(tokens, clip.LEGACY_EOS), [0, 0])


def test_clip_is_causal_and_t5_is_not():
  config = clip.CONFIGS['tiny']
  params = tiny.redrawn(clip.spec(config))
  tokens = np.array([[256, 5, 6, 257, 0, 0], [256, 5, 6, 257, 9, 9]])
  out = jax.jit(lambda t: clip.apply(params, config, t))(tokens)
  np.testing.assert_allclose(out.pooled[0], out.pooled[1], rtol=1e-5)
  assert np.abs(out.penultimate[0, 4:] - out.penultimate[1, 4:]).max() > 1e-3
  config = t5.CONFIGS['tiny']
  params = tiny.redrawn(t5.spec(config))
  states = jax.jit(lambda t: t5.apply(params, config, t))(tokens)
  assert np.abs(states[0, :4] - states[1, :4]).max() > 1e-3


def test_too_many_tokens_are_refused():
  config = clip.CONFIGS['tiny']
  with pytest.raises(ValueError, match='13 tokens; expected at most 12'):
    clip.apply(None, config, np.zeros((1, 13), np.int32))


@pytest.fixture(scope='module')
def clip_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('clip_tokenizer')
  tiny.write_clip_tokenizer(folder)
  return folder


def test_clip_tokens(clip_folder):
  tokenizer = tokenizers.load_clip(clip_folder)
  vocab = json.loads((clip_folder / 'vocab.json').read_text())
  ids = tokenizer(['A  Cat!', 'cat ' * 20, ''], 7)
  assert ids.dtype == np.int32
  start, end, pad = (vocab[t] for t in (tokenizers.START, tokenizers.END, '!'))
  cat = vocab['cat</w>']
  np.testing.assert_array_equal(ids[0], [start, vocab['a</w>'], cat, vocab['!</w>'], end, pad, pad])
  np.testing.assert_array_equal(ids[1], [start, *[cat] * 5, end])
  np.testing.assert_array_equal(ids[2], [start, end, *[pad] * 5])


def test_t5_tokens(tmp_path):
  tiny.write_t5_tokenizer(tmp_path)
  tokenizer = tokenizers.load_t5(tmp_path)
  ids = tokenizer(['a red square', 'red ' * 30, '</s>'], 8)
  assert ids.shape == (3, 8) and ids.dtype == np.int32
  pad, end = tokenizer.model.pad_id(), tokenizer.model.eos_id()
  length = list(ids[0]).index(end)
  assert tokenizer.model.decode(ids[0, :length].tolist()) == 'a red square'
  assert set(ids[0, length + 1 :]) == {pad}
  assert ids[1, -1] == end
  # Typed into a prompt, the end is only characters.
  assert list(ids[2]).count(end) == 1


def test_saved_tokenizers_are_the_published_files(clip_folder, tmp_path):
  tokenizers.save(tmp_path, tokenizers.load_clip(clip_folder))
  names = sorted(path.name for path in clip_folder.iterdir())
  assert names == sorted(path.name for path in tmp_path.iterdir())
  assert all((tmp_path / name).read_bytes() == (clip_folder / name).read_bytes() for name in names)


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('vocab.json', b'[]', 'expected a dict'),
    ('vocab.json', b'{"a": 1}', r"no id for '<\|startoftext\|>'"),
    ('merges.txt', b'#version: 0.2\nc a\nx y z\n', "'x y z' is not a pair"),
    ('merges.txt', b'#version: 0.2\nq q\n', "'q q' is not a pair"),
    ('merges.txt', b'\xff\xfe', 'merges.txt'),
  ],
)
def test_malformed_clip_files_are_named(tmp_path, name, content, message):
  tiny.write_clip_tokenizer(tmp_path)
  (tmp_path / name).write_bytes(content)
  with pytest.raises(CheckpointError, match=message):
    tokenizers.load_clip(tmp_path)


def test_malformed_t5_files_are_named(tmp_path):
  with pytest.raises(CheckpointError, match=r'spiece\.model: no such file'):
    tokenizers.load_t5(tmp_path)
  (tmp_path / 'spiece.model').write_bytes(b'not a model')
  with pytest.raises(CheckpointError, match='not a SentencePiece model'):
    tokenizers.load_t5(tmp_path)


def test_bytes_have_a_letter_each():
  vocab = tiny.clip_vocabulary()
  assert all(letter in vocab and f'{letter}</w>' in vocab for letter in byte_characters())
