"""Texts as vectors. An encoder has an `id`, a `width`, and maps texts to float32 [texts, width]."""

import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from core.files.config import CheckpointError, read_json

BATCH = 64
MAX_LENGTH = 256  # tokens of a task or a case (arXiv 2508.16153, released code)


class Encoder(Protocol):
  """What turns texts into vectors; equal ids promise equal vectors."""

  id: str
  width: int

  def __call__(self, texts: Sequence[str]) -> np.ndarray: ...


class HashEncoder:
  """Signed counts of hashed words, normalised: similarity of vocabulary, with no weights at all."""

  def __init__(self, width: int = 256):
    from sklearn.feature_extraction.text import HashingVectorizer

    self.id = f'hash-{width}'
    self.width = width
    self._hash = HashingVectorizer(n_features=width, token_pattern=r'(?u)\w+')

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """float32 [texts, width]."""
    if not texts:
      return np.zeros((0, self.width), np.float32)
    return self._hash.transform(texts).toarray().astype(np.float32)


class SentenceEncoder:
  """A BERT or RoBERTa folder (SimCSE, sentence-transformers). Texts are cut at `max_length` tokens."""

  def __init__(self, config, params, tokenizer, *, pooling: str, name: str, max_length: int = MAX_LENGTH):
    import jax

    from agents.memory import bert

    if pooling == 'pooler' and params.pooler is None:
      raise ValueError(f"{name}: pooling='pooler', but the folder has no pooler; expected 'cls' or 'mean'")
    self.id = f'{name}/{pooling}/{max_length}'
    self.width = config.width
    self.config = config
    self.params = params
    self.pooling = pooling
    self._tokenizer = tokenizer
    self._length = min(max_length, config.max_length)
    self._embed = jax.jit(functools.partial(bert.embed, config=config, pooling=pooling))

  @classmethod
  def load(cls, path: str | os.PathLike, *, pooling: str | None = None, max_length: int = MAX_LENGTH):
    """From a folder as published. pooling: 'cls', 'pooler' or 'mean'; by default what the folder states, else 'cls'.

    Raises CheckpointError, FileNotFoundError or ValueError naming what does not fit.
    """
    from agents.memory import bert
    from core.files.tokenizers import load_tokenizer

    path = pathlib.Path(path)
    pooling = pooling or _stated_pooling(path)
    if pooling not in ('cls', 'pooler', 'mean'):
      raise ValueError(f"pooling={pooling!r}: expected 'cls', 'pooler' or 'mean'")
    config, params = bert.load(path)
    return cls(
      config,
      params,
      load_tokenizer(path),
      pooling=pooling,
      name=f'{path.resolve().name}-{_digest(path)}',
      max_length=max_length,
    )

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """float32 [texts, width], as pooled and not normalised."""
    parts = [self._batch(list(texts[i : i + BATCH])) for i in range(0, len(texts), BATCH)]
    if parts:
      return np.concatenate(parts)
    return np.zeros((0, self.width), np.float32)

  def _batch(self, texts: list[str]) -> np.ndarray:
    tokens, mask = self.tokens(texts)
    return np.asarray(self._embed(self.params, tokens=tokens, mask=mask), np.float32)[: len(texts)]

  def tokens(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """int32 tokens and bool mask [texts, length], both sizes rounded up to powers of two."""
    rows = self._tokenizer(texts, truncation=True, max_length=self._length)['input_ids']
    # Sizes are powers of two, so that few programs are compiled; a padding row holds one token.
    count = _power(len(rows))
    length = min(_power(max(map(len, rows))), self._length)
    tokens = np.zeros((count, length), np.int32)
    mask = np.zeros((count, length), bool)
    mask[:, 0] = True
    for i, row in enumerate(rows):
      tokens[i, : len(row)] = row
      mask[i, : len(row)] = True
    return tokens, mask

  def with_params(self, params, name: str) -> 'SentenceEncoder':
    """The same encoder with other weights, under another name."""
    return SentenceEncoder(
      self.config, params, self._tokenizer, pooling=self.pooling, name=name, max_length=self._length
    )


def _power(n: int) -> int:
  return 1 << max(n - 1, 0).bit_length()


def _digest(path: pathlib.Path) -> str:
  """Twelve hexadecimal digits that stand for the weights."""
  digest = hashlib.sha256()
  for file in sorted(path.glob('*.safetensors')):
    with open(file, 'rb') as f:
      digest.update(hashlib.file_digest(f, 'sha256').digest())
  return digest.hexdigest()[:12]


def _stated_pooling(path: pathlib.Path) -> str:
  """What a sentence-transformers folder says of its pooling; 'cls' where it says nothing."""
  if (path / 'modules.json').is_file():
    kinds = [str(m.get('type', '')).rpartition('.')[2] for m in read_json(path, 'modules.json', list)]
    unknown = set(kinds) - {'Transformer', 'Pooling', 'Normalize'}
    if unknown:
      raise CheckpointError(f'{path}: modules {sorted(unknown)}; expected Transformer, Pooling and Normalize only')
  if not (path / '1_Pooling' / 'config.json').is_file():
    return 'cls'
  stated = read_json(path, '1_Pooling/config.json')
  modes = {'pooling_mode_cls_token': 'cls', 'pooling_mode_mean_tokens': 'mean'}
  found = [modes.get(key, key) for key, on in stated.items() if key.startswith('pooling_mode_') and on]
  if len(found) != 1:
    raise CheckpointError(f'{path}/1_Pooling: pooling {found}; expected exactly one of {sorted(modes.values())}')
  return found[0]
