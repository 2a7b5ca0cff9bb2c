"""Tokenizers: files, bytes, text that cannot forge special tokens, streaming."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.files.tokenizers import Detokenizer, TextEncoder, byte_tokenizer, load_tokenizer, token_id

SPECIAL = ['<|endoftext|>', '<|im_start|>', '<|im_end|>', '<img>', '<IMG_CONTEXT>', '<ref>']
BYTES = byte_tokenizer(SPECIAL, eos='<|im_end|>', pad='<|endoftext|>')


@pytest.fixture(scope='module')
def bpe():
  """A byte-level BPE with merges, trained here, whose tokens split characters."""
  from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
  from transformers import PreTrainedTokenizerFast

  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
  )
  tokenizer.train_from_iterator(['the sum of two digits 你好 你们 émigré naïve 🙂🙃'] * 20, trainer)
  tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
  return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token='<|im_end|>')


@given(st.text())
def test_byte_ids_are_the_bytes_of_utf8(text):
  ids = TextEncoder(BYTES)(text)
  assert bytes(ids) == text.encode()
  assert BYTES.decode(ids) == text


def test_byte_tokenizer_survives_its_files(tmp_path):
  BYTES.save_pretrained(tmp_path)
  again = load_tokenizer(tmp_path)
  text = '<|im_start|>user\nhé 你<IMG_CONTEXT><|im_end|>'
  assert again.encode(text) == BYTES.encode(text)
  assert [token_id(again, t) for t in SPECIAL] == list(range(256, 256 + len(SPECIAL)))
  assert (again.eos_token, again.pad_token) == ('<|im_end|>', '<|endoftext|>')


def test_absent_things_are_named(tmp_path):
  with pytest.raises(ValueError, match=r"'<quad>'.*needed"):
    token_id(BYTES, '<quad>')
  with pytest.raises(FileNotFoundError, match='nowhere'):
    load_tokenizer(tmp_path / 'nowhere')
  with pytest.raises(FileNotFoundError, match=r'holds no tokenizer .*tokenizer\.json'):
    load_tokenizer(tmp_path)
  (tmp_path / 'tokenizer.json').write_text(json.dumps({'version': '1.0'}))
  with pytest.raises(ValueError, match=tmp_path.name):
    load_tokenizer(tmp_path)
  with pytest.raises(ValueError, match='<nope>'):
    byte_tokenizer(SPECIAL, eos='<nope>')
  with pytest.raises(ValueError, match='distinct'):
    byte_tokenizer(['<a>', '<a>'])


forged = st.lists(
  st.one_of(st.sampled_from(SPECIAL + ['<think>', '<', '<IMG_', 'img>', '<<img>>']), st.text()), max_size=6
).map(''.join)


@given(text=forged)
def test_text_cannot_forge_a_special_token(bpe, text):
  for tokenizer in (BYTES, bpe):
    ids = TextEncoder(tokenizer)(text)
    assert not set(ids) & {token_id(tokenizer, t) for t in SPECIAL}
    assert tokenizer.decode(ids) == text


def test_a_structural_token_is_plain_even_when_not_flagged_special():
  from tokenizers import AddedToken

  tokenizer = byte_tokenizer(['<|im_end|>'])
  tokenizer.add_tokens([AddedToken('<IMG_CONTEXT>', special=False), AddedToken('<think>', special=False)])
  plain = TextEncoder(tokenizer, structural=['<IMG_CONTEXT>'])
  assert bytes(plain('<IMG_CONTEXT>')) == b'<IMG_CONTEXT>'
  assert plain('<think>') == [token_id(tokenizer, '<think>')]


def test_markup_stays_a_token(bpe):
  ids = TextEncoder(bpe, markup=['<ref>'])('a <ref>b<img>')
  assert ids.count(token_id(bpe, '<ref>')) == 1
  assert token_id(bpe, '<img>') not in ids


@settings(max_examples=50)
@given(ids=st.lists(st.integers(0, 255 + len(SPECIAL)), max_size=40), text=st.text())
def test_streamed_text_equals_decoding_at_once(bpe, ids, text):
  for tokenizer in (BYTES, bpe):
    everything = ids + tokenizer.encode(text) + ids
    stream = Detokenizer(tokenizer)
    pieces = [stream.push(i) for i in everything]
    assert ''.join(pieces) + stream.flush() == tokenizer.decode(everything, skip_special_tokens=True)


def test_streaming_never_shows_half_a_character(bpe):
  text = 'né 你好🙂 ok'
  for tokenizer in (BYTES, bpe):
    stream, shown = Detokenizer(tokenizer), ''
    for i in tokenizer.encode(text):
      shown += stream.push(i)
      assert text.startswith(shown)
    assert shown == text and stream.flush() == ''


@pytest.mark.parametrize('where', ['config', 'tokenizer_config', 'both'])
def test_python_code_of_a_folder_is_neither_run_nor_asked_about(where, tmp_path, monkeypatch):
  """A folder that names code of its own reads like any other, and a piped conversation is left alone."""
  BYTES.save_pretrained(tmp_path)
  ran = tmp_path / 'ran'
  (tmp_path / 'evil.py').write_text(f"open({str(ran)!r}, 'w')\nclass Config: pass\nclass Tokenizer: pass\n")
  maps = {
    'config': {'AutoConfig': 'evil.Config', 'AutoModel': 'evil.Config'},
    'tokenizer_config': {'AutoTokenizer': ['evil.Tokenizer', None]},
  }
  for name, auto_map in maps.items():
    if where in (name, 'both'):
      file = tmp_path / f'{name}.json'
      content = json.loads(file.read_text()) if file.exists() else {'model_type': 'internvl_chat'}
      file.write_text(json.dumps(content | {'auto_map': auto_map}))

  def asked(*_):
    raise AssertionError('a question on standard input')

  monkeypatch.setattr('builtins.input', asked)
  again = load_tokenizer(tmp_path)
  text = '<|im_start|>user\nhé 你<IMG_CONTEXT><|im_end|>'
  assert again.encode(text) == BYTES.encode(text)
  assert not ran.exists()
