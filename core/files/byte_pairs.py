"""Byte-pair tokenizers from published ranks (`*.tiktoken` files) instead of a tokenizer.json.

A ranks file lists byte strings in the order in which training made them. A tokenizer.json wants the merges
themselves, which this module recovers.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from core.files.tokenizers import byte_characters

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

# How Qwen2, 2.5 and 3 split text before merging.
QWEN_SPLIT = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The special tokens that Qwen2, 2.5 and 3 share; their ids follow the ranks.
QWEN_SPECIAL = (
  '<|endoftext|>',
  '<|im_start|>',
  '<|im_end|>',
  '<|object_ref_start|>',
  '<|object_ref_end|>',
  '<|box_start|>',
  '<|box_end|>',
  '<|quad_start|>',
  '<|quad_end|>',
  '<|vision_start|>',
  '<|vision_end|>',
  '<|vision_pad|>',
  '<|image_pad|>',
  '<|video_pad|>',
)


def read_ranks(path: str | os.PathLike) -> list[bytes]:
  """The byte strings of a ranks file, by rank.

  Raises:
    ValueError: a line is not `base64 rank`, a rank is missing or repeated, or a single byte is not in the file.
  """
  tokens: dict[int, bytes] = {}
  for number, line in enumerate(pathlib.Path(path).read_text(encoding='ascii').splitlines(), start=1):
    try:
      encoded, rank = line.split()
      token = base64.b64decode(encoded, validate=True)
      at = int(rank)
    except (ValueError, binascii.Error) as error:
      raise ValueError(f'{path}:{number}: {line[:60]!r} is not a base64 string and a rank') from error
    if at in tokens:
      raise ValueError(f'{path}:{number}: rank {at} occurs twice')
    tokens[at] = token
  absent = [rank for rank in range(len(tokens)) if rank not in tokens]
  if absent:
    raise ValueError(f'{path}: {len(tokens)} ranks, but rank {absent[0]} is missing')
  _check_bytes(tokens.values(), str(path))
  return [tokens[rank] for rank in range(len(tokens))]


def _check_bytes(tokens: Iterable[bytes], path: str) -> None:
  single = {token[0] for token in tokens if len(token) == 1}
  if len(single) < 256:
    missing = min(set(range(256)) - single)
    raise ValueError(f'{path}: byte {missing:#04x} is not among the tokens; all 256 single bytes were expected')


def merges(ranked: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
  """The merge that made each token of two or more bytes, in the order of the ranks.

  Raises ValueError naming the first token that is not a merge of two tokens of lower rank.
  """
  ranks = {token: rank for rank, token in enumerate(ranked)}
  result = []
  for rank, token in enumerate(ranked):
    if len(token) == 1:
      continue
    pieces = _split(token, ranks, below=rank)
    if len(pieces) != 2:
      raise ValueError(f'rank {rank}, {token!r}: {len(pieces)} pieces remain where a merge has 2')
    result.append((pieces[0], pieces[1]))
  return result


def _split(token: bytes, ranks: Mapping[bytes, int], *, below: int) -> list[bytes]:
  """The pieces that remain of `token` after all merges of ranks under `below`."""
  pieces = [token[i : i + 1] for i in range(len(token))]
  while len(pieces) > 2:
    pairs = [ranks.get(left + right, below) for left, right in itertools.pairwise(pieces)]
    best = min(pairs)
    if best >= below:
      break
    at = pairs.index(best)
    pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
  return pieces


def qwen_tokenizer(
  ranked: Sequence[bytes], special_tokens: Sequence[str] = QWEN_SPECIAL, *, eos: str = '<|im_end|>'
) -> PreTrainedTokenizerFast:
  """The tokenizer of Qwen2, 2.5 and 3 from its ranks; `save_pretrained` writes its tokenizer.json.

  Text is normalised to NFC. `special_tokens` take the ids after the ranks; models that extend Qwen pass a longer list.
  """
  from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
  from transformers import PreTrainedTokenizerFast

  letters = byte_characters()
  spell = lambda piece: ''.join(letters[byte] for byte in piece)
  written = list(map(spell, ranked))
  joined = [tuple(map(spell, pair)) for pair in merges(ranked)]
  vocab = {token: rank for rank, token in enumerate(written)}
  tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=joined))
  tokenizer.normalizer = normalizers.NFC()
  split = pre_tokenizers.Split(Regex(QWEN_SPLIT), 'isolated')
  to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special_tokens])
  return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token=special_tokens[0])
