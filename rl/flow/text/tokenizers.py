"""Prompts as token ids: CLIP's byte pairs from vocab.json and merges.txt, T5's unigrams from spiece.model.

Both return ids of a fixed length: cut, ended and padded. Special tokens written in a prompt are plain text for T5; for
CLIP they are its tokens, as in every published implementation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from core.files import store
from core.files.config import naming, read_json
from core.files.store import CheckpointError, Folder, FolderPath

if TYPE_CHECKING:
  from sentencepiece import SentencePieceProcessor
  from tokenizers import Tokenizer as Tokenizers

START = '<|startoftext|>'
END = '<|endoftext|>'
SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Tokenizer(Protocol):
  """What both kinds do. files: the published files, by name."""

  files: dict[str, bytes]

  def __call__(self, texts: Sequence[str], length: int) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class ClipTokenizer:
  """Lower-cased byte pairs between a start and an end token."""

  model: Tokenizers
  start: int
  end: int
  pad: int
  files: dict[str, bytes]

  def __call__(self, texts: Sequence[str], length: int) -> np.ndarray:
    """int32 [len(texts), length]: start, at most length - 2 tokens, end, padding."""
    rows = []
    for text in texts:
      ids = self.model.encode(text, add_special_tokens=False).ids
      rows.append([self.start, *ids[: length - 2], self.end])
    return _padded(rows, length, self.pad)


@dataclasses.dataclass(frozen=True)
class T5Tokenizer:
  """SentencePiece unigrams and an end token."""

  model: SentencePieceProcessor
  files: dict[str, bytes]

  def __call__(self, texts: Sequence[str], length: int) -> np.ndarray:
    """int32 [len(texts), length]: at most length - 1 tokens, end, padding."""
    end = self.model.eos_id()
    pad = self.model.pad_id()
    rows = [[*self.model.encode(text)[: length - 1], end] for text in texts]
    return _padded(rows, length, pad)


def _padded(rows: Sequence[Sequence[int]], length: int, pad: int) -> np.ndarray:
  out = np.full((len(rows), length), pad, np.int32)
  for line, row in zip(out, rows):
    line[: len(row)] = row
  return out


def load_clip(path: FolderPath) -> ClipTokenizer:
  """The tokenizer of a folder with vocab.json and merges.txt.

  Raises CheckpointError naming a file that is missing or malformed.
  """
  folder = store.folder(path)
  vocab = read_json(folder, 'vocab.json')
  pad = _pad_token(folder)
  for token in (START, END, pad):
    if not isinstance(vocab.get(token), int):
      raise CheckpointError(f'{folder}/vocab.json: has no id for {token!r}')
  files = _small_files(folder)
  with naming(f'{folder}/merges.txt'):
    merges = _merges(folder.read('merges.txt'), vocab)
    model = _byte_pairs(vocab, merges)
  return ClipTokenizer(model=model, start=vocab[START], end=vocab[END], pad=vocab[pad], files=files)


def _merges(content: bytes, vocab: dict[str, int]) -> list[tuple[str, str]]:
  """The pairs of a merges file, after its line with a version."""
  lines = content.decode('utf-8').split('\n')
  first = 1 if lines[0].startswith('#version') else 0
  pairs = [tuple(line.split()) for line in lines[first:] if line.strip()]
  wrong = [pair for pair in pairs if len(pair) != 2 or ''.join(pair) not in vocab]
  if wrong:
    raise ValueError(f'{" ".join(wrong[0])!r} is not a pair of tokens whose union is in vocab.json')
  return pairs


def _byte_pairs(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizers:
  from tokenizers import Regex, models, normalizers, pre_tokenizers
  from tokenizers import Tokenizer as Tokenizers

  model = models.BPE(vocab=vocab, merges=merges, end_of_word_suffix='</w>', unk_token=END)
  tokenizer = Tokenizers(model)
  spaces = normalizers.Replace(Regex(r'\s+'), ' ')
  tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
  split = pre_tokenizers.Split(Regex(SPLIT), behavior='removed', invert=True)
  to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
  tokenizer.add_special_tokens([START, END])
  return tokenizer


def _pad_token(folder: Folder) -> str:
  """The padding that a folder declares: CLIP-L pads with the end of text, bigG with `!`."""
  for name in ('special_tokens_map.json', 'tokenizer_config.json'):
    if folder.has(name):
      token: Any = read_json(folder, name).get('pad_token')
      content = token
      if isinstance(token, dict):
        content = token.get('content')
      if isinstance(content, str):
        return content
  return END


def load_t5(path: FolderPath) -> T5Tokenizer:
  """The tokenizer of a folder with spiece.model.

  Raises CheckpointError when the file is missing or malformed, or lacks the ids of end and padding.
  """
  from sentencepiece import SentencePieceProcessor

  folder = store.folder(path)
  content = folder.read('spiece.model')
  try:
    model = SentencePieceProcessor(model_proto=content)
  except Exception as error:  # the library raises RuntimeError and its own kinds
    raise CheckpointError(f'{folder}/spiece.model: not a SentencePiece model ({error})') from error
  if min(model.eos_id(), model.pad_id()) < 0:
    raise CheckpointError(f'{folder}/spiece.model: has no end or no padding token')
  return T5Tokenizer(model=model, files=_small_files(folder))


def _small_files(folder: Folder) -> dict[str, bytes]:
  """The contents of a tokenizer's files."""
  names = [name for name in folder.names() if name.endswith(store.SMALL)]
  return {name: folder.read(name) for name in names}


def save(path: FolderPath, tokenizer: Tokenizer) -> None:
  """Writes the files that the tokenizer was read from."""
  folder = store.folder(path)
  for name, content in tokenizer.files.items():
    folder.write(name, [content])
