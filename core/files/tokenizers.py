"""Text to token ids and back, from ordinary tokenizer.json files.

A tokenizer here is a `transformers` fast tokenizer; this file adds only what that library leaves open: an
offline loader with clear errors, a byte-level tokenizer for tiny models, encoding of text that must not be
able to forge special tokens, and streaming decoding.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from core.files import store
from core.files.config import read_json
from core.files.store import CheckpointError, Folder, FolderPath

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

# transformers would tell every user that PyTorch is missing, which tokenizers do without.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

# What stands for bytes that are not (yet) a whole UTF-8 character.
REPLACEMENT = '\ufffd'


def load_tokenizer(path: FolderPath) -> PreTrainedTokenizerFast:
  """The tokenizer of a checkpoint folder or its URL. Never runs Python code of the folder, nor asks to.

  Raises:
    FileNotFoundError: no such folder, or no tokenizer files in it.
    ValueError: the files are there but are not a tokenizer.
  """
  folder = store.folder(path)
  if folder.local is not None and not folder.local.is_dir():
    raise FileNotFoundError(f'{folder}: no such folder; a checkpoint folder with tokenizer.json was expected')
  known = ('tokenizer.json', 'tokenizer.model', 'vocab.json')
  if not any(map(folder.has, known)):
    raise FileNotFoundError(f'{folder}: holds no tokenizer (none of {", ".join(known)})')
  from transformers import AutoTokenizer, PreTrainedTokenizerFast  # takes seconds, so only where one is needed

  # A class of its own is code of the checkpoint; its tokenizer.json says the same in data.
  own_class = _names_own_class(folder) and folder.has('tokenizer.json')
  reader = PreTrainedTokenizerFast if own_class else AutoTokenizer
  try:
    with folder.small_files() as local:
      # Left out, `trust_remote_code` would ask on standard input.
      tokenizer = reader.from_pretrained(str(local), local_files_only=True, trust_remote_code=False)
  except Exception as error:  # the library raises bare Exception for a malformed tokenizer.json
    raise ValueError(f'{folder}: the tokenizer files cannot be read: {error}') from error
  tokenizer.name_or_path = str(folder)
  return tokenizer


def load_file(path: FolderPath) -> PreTrainedTokenizerFast:
  """The tokenizer that `tokenizer.json` of a folder describes; the class that other files name does not matter.

  Raises FileNotFoundError when there is none, ValueError when it is not a tokenizer.
  """
  folder = store.folder(path)
  if not folder.has('tokenizer.json'):
    raise FileNotFoundError(f'{folder}: holds no tokenizer.json')
  from tokenizers import Tokenizer
  from transformers import PreTrainedTokenizerFast

  try:
    described = Tokenizer.from_str(folder.read('tokenizer.json').decode())
  except Exception as error:  # the library raises bare Exception
    raise ValueError(f'{folder}/tokenizer.json: not a tokenizer: {error}') from error
  tokenizer = PreTrainedTokenizerFast(tokenizer_object=described)
  tokenizer.name_or_path = str(folder)
  return tokenizer


def _names_own_class(folder: Folder) -> bool:
  """Whether tokenizer_config.json names a tokenizer class in Python files of the folder or of a hub."""
  try:
    return bool(read_json(folder, 'tokenizer_config.json').get('auto_map'))
  except CheckpointError:
    return False  # absent or malformed: the library says what is wrong


def byte_tokenizer(
  special_tokens: Sequence[str], *, eos: str | None = None, pad: str | None = None
) -> PreTrainedTokenizerFast:
  """A tokenizer whose ids 0..255 are the bytes of UTF-8 and whose special tokens follow in order.

  It is a byte-level BPE without merges, so `save_pretrained` writes the same files as a published model has
  and `load_tokenizer` reads them. `eos` and `pad` must be among `special_tokens`.
  """
  for token in (eos, pad):
    if token is not None and token not in special_tokens:
      raise ValueError(f'{token!r} is not one of the special tokens {list(special_tokens)}')
  if len(set(special_tokens)) != len(special_tokens):
    raise ValueError(f'special tokens are not distinct: {list(special_tokens)}')
  from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
  from transformers import PreTrainedTokenizerFast

  model = models.BPE(vocab={character: byte for byte, character in enumerate(byte_characters())}, merges=[])
  tokenizer = Tokenizer(model)
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special_tokens])
  return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token=pad)


def word_tokenizer(corpus: Sequence[str], special_tokens: Sequence[str], *, size: int) -> PreTrainedTokenizerFast:
  """A byte-level BPE learned from `corpus`, with at most `size` ids; the special tokens are the last ones, in order."""
  from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
  from transformers import PreTrainedTokenizerFast

  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  learned = size - len(special_tokens)
  trainer = trainers.BpeTrainer(
    vocab_size=learned, initial_alphabet=byte_characters(), min_frequency=1, show_progress=False
  )
  tokenizer.train_from_iterator(corpus, trainer)
  tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special_tokens])
  return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_characters() -> list[str]:
  """The printable stand-in of each byte in the byte-level alphabet that GPT-2 introduced."""
  printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  others = [byte for byte in range(256) if byte not in printable]
  code = {byte: byte for byte in printable} | {byte: 256 + i for i, byte in enumerate(others)}
  return [chr(code[byte]) for byte in range(256)]


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
  """The id of a token given by its string; never a number written down in code.

  Raises:
    ValueError: the vocabulary does not have it.
  """
  found = tokenizer.convert_tokens_to_ids(token)
  if found is None or (found == tokenizer.unk_token_id and token != tokenizer.unk_token):
    name = tokenizer.name_or_path or 'this tokenizer'
    raise ValueError(f'{name}: the vocabulary ({len(tokenizer)} tokens) has no {token!r}, needed here')
  return found


def _after_first(text: str) -> str:
  """A pattern of the place after the first character of `text`, of no width."""
  first = re.escape(text[0])
  rest = re.escape(text[1:])
  return f'(?<={first})(?={rest})'


class TextEncoder:
  """Encodes text in which special tokens are only characters.

  Whoever types `<|im_end|>` into a chat must not end their turn with it. Every special token of the
  vocabulary, and everything in `structural`, is read as plain text, except the strings in `markup` (tags
  such as `<ref>` that users and models legitimately write). Other text encodes as the tokenizer does it.
  """

  def __init__(self, tokenizer: PreTrainedTokenizerFast, *, structural: Iterable[str] = (), markup: Iterable[str] = ()):
    self.tokenizer = tokenizer
    special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    forbidden = (special | set(structural)) - set(markup)
    longest_first = sorted(forbidden, key=len, reverse=True)
    # Matches after the first character of each forbidden string: cut there, neither half is a token.
    pattern = '|'.join(_after_first(s) for s in longest_first if len(s) > 1)
    self._cuts = re.compile(pattern) if pattern else None

  def forges(self, text: str) -> bool:
    """Whether the text has a special token in it, which the tokenizer alone would read as one."""
    return bool(self._cuts and self._cuts.search(text))

  def __call__(self, text: str) -> list[int]:
    pieces = self._cuts.split(text) if self._cuts else [text]
    return [i for piece in pieces if piece for i in self.tokenizer.encode(piece, add_special_tokens=False)]


class Detokenizer:
  """Turns a stream of token ids into a stream of text.

  A piece is held back while it ends inside a UTF-8 character, so the pieces are always whole characters; all
  pieces and the last `flush` joined equal decoding every id at once.
  """

  def __init__(self, tokenizer: PreTrainedTokenizerFast, *, skip_special_tokens: bool = True):
    self._decode = lambda ids: tokenizer.decode(
      ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
    )
    self._ids: list[int] = []
    # ids[start:read] is the last text given out: decoders treat the first token apart, so context is needed.
    self._start = self._read = 0

  def push(self, *ids: int) -> str:
    """Takes the next ids; returns the text that they complete, possibly ''."""
    self._ids += ids
    given = self._decode(self._ids[self._start : self._read])
    text = self._decode(self._ids[self._start :])
    if text.endswith(REPLACEMENT):
      return ''
    self._start, self._read = self._read, len(self._ids)
    return text[len(given) :]

  def flush(self) -> str:
    """The text still held back, however it ends. Call once, after the last id."""
    given = self._decode(self._ids[self._start : self._read])
    text = self._decode(self._ids[self._start :])
    self._start = self._read = len(self._ids)
    return text[len(given) :]
