"""Text and special tokens of a Whisper vocabulary. Every id is derived from the tokenizer or the published lists."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from core.files import store
from core.files.config import read_json
from core.files.store import FolderPath
from core.files.tokenizers import load_file, token_id

GPT2_TOKENS = 50_256  # ordinary tokens of English-only models; multilingual ones have one more
TIMESTAMPS_A_SECOND = 50
LANGUAGE = re.compile(r'<\|([a-z]{2,3})\|>')
NO_SPEECH = ('<|nospeech|>', '<|nocaptions|>')  # the second name is the older one

# What stands for sounds, speakers and notes in subtitles, not for speech; OpenAI suppresses it.
SYMBOLS = (
  *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
  *('<<', '>>', '<<<', '>>>', '--', '---', '-(', '-[', "('", '("', '((', '))', '(((', ')))', '[[', ']]', '{{', '}}'),
  *('♪♪', '♪♪♪'),
)
NOTES = tuple('♩♪♫♬♭♮♯')


@dataclasses.dataclass(frozen=True)
class Ids:
  """Special tokens by meaning."""

  eot: int
  sot: int
  translate: int
  transcribe: int
  sot_lm: int
  sot_prev: int
  no_speech: int
  no_timestamps: int
  first_timestamp: int


@dataclasses.dataclass(frozen=True)
class Processor:
  """A tokenizer with what decoding needs to know of it.

  languages: code → id, empty for an English-only model. suppress, suppress_first: lists that the checkpoint publishes,
  empty if it publishes none. alignment_heads: (layer, head) pairs for word times, None if not published.
  """

  tokenizer: Any
  ids: Ids
  languages: dict[str, int]
  suppress: tuple[int, ...] = ()
  suppress_first: tuple[int, ...] = ()
  max_initial_timestamp: int | None = None
  alignment_heads: tuple[tuple[int, int], ...] | None = None

  @classmethod
  def load(cls, path: FolderPath) -> Processor:
    """Of a folder with `tokenizer.json`, and `generation_config.json` or CTranslate2's `config.json`.

    Raises FileNotFoundError, CheckpointError or ValueError naming what is missing or cannot be read.
    """
    folder = store.folder(path)
    published = _published(folder)
    return cls.of(load_file(folder), published)

  @classmethod
  def of(cls, tokenizer: Any, published: dict) -> Processor:
    """Of a tokenizer and what a `generation_config.json` says."""
    ids = _ids(tokenizer)
    heads = published.get('alignment_heads')
    multilingual = published.get('is_multilingual', ids.eot > GPT2_TOKENS)
    return cls(
      tokenizer=tokenizer,
      ids=ids,
      languages=_languages(tokenizer, ids) if multilingual else {},
      suppress=tuple(published.get('suppress_tokens') or ()),
      suppress_first=tuple(published.get('begin_suppress_tokens') or ()),
      max_initial_timestamp=published.get('max_initial_timestamp_index'),
      alignment_heads=None if heads is None else tuple((layer, head) for layer, head in heads),
    )

  def encode(self, text: str) -> list[int]:
    """The ids of text, none of them special."""
    return self.tokenizer.encode(text, add_special_tokens=False)

  def text(self, tokens) -> str:
    """The text of ids; special tokens and timestamps are left out."""
    ordinary = [int(t) for t in tokens if t < self.ids.eot]
    return self.tokenizer.decode(ordinary, clean_up_tokenization_spaces=False)

  def seconds(self, token: int) -> float:
    """The time that a timestamp token stands for, from the start of its window."""
    return (int(token) - self.ids.first_timestamp) / TIMESTAMPS_A_SECOND

  def prompt(
    self, *, language: str | None = None, task: str = 'transcribe', timestamps: bool = True, previous=()
  ) -> list[int]:
    """The ids that a response follows: `previous` text behind its mark, then start, language, task and notimestamps.

    Raises ValueError for a language or task that the model does not have.
    """
    if task not in ('transcribe', 'translate'):
      raise ValueError(f"task {task!r}; expected 'transcribe' or 'translate'")
    out = []
    if len(previous):
      out = [self.ids.sot_prev, *previous]
    out.append(self.ids.sot)
    if self.languages:
      if language not in self.languages:
        raise ValueError(f'language {language!r}; expected one of {sorted(self.languages)}')
      out += [self.languages[language], getattr(self.ids, task)]
    elif task == 'translate' or language not in (None, 'en'):
      raise ValueError(f'an English-only model cannot {task} {language or "other languages"}')
    if timestamps:
      return out
    return [*out, self.ids.no_timestamps]

  def symbols(self) -> tuple[int, ...]:
    """The non-speech tokens that OpenAI suppresses: symbols that are one token, and the first token of notes."""
    banned = {self.encode(' -')[0], self.encode(" '")[0]}
    for symbol in (*SYMBOLS, *NOTES):
      for tokens in (self.encode(symbol), self.encode(f' {symbol}')):
        if len(tokens) == 1 or symbol in NOTES:
          banned.add(tokens[0])
    return tuple(sorted(banned))


def _published(folder: store.Folder) -> dict:
  """What decoding uses of generation_config.json, or of CTranslate2's config.json in the same terms."""
  if folder.has('generation_config.json'):
    return read_json(folder, 'generation_config.json')
  if not folder.has('config.json'):
    return {}
  said = read_json(folder, 'config.json')
  if 'suppress_ids' not in said:
    return {}
  return {
    'alignment_heads': said.get('alignment_heads'),
    'begin_suppress_tokens': said.get('suppress_ids_begin'),
    'suppress_tokens': said['suppress_ids'],
  }


def _ids(tokenizer: Any) -> Ids:
  vocab = tokenizer.get_vocab()
  no_speech = next((name for name in NO_SPEECH if name in vocab), NO_SPEECH[0])
  no_timestamps = token_id(tokenizer, '<|notimestamps|>')
  # Some published tokenizers leave the timestamps out; they always follow.
  first = vocab.get('<|0.00|>', no_timestamps + 1)
  return Ids(
    eot=token_id(tokenizer, '<|endoftext|>'),
    sot=token_id(tokenizer, '<|startoftranscript|>'),
    translate=token_id(tokenizer, '<|translate|>'),
    transcribe=token_id(tokenizer, '<|transcribe|>'),
    sot_lm=token_id(tokenizer, '<|startoflm|>'),
    sot_prev=token_id(tokenizer, '<|startofprev|>'),
    no_speech=token_id(tokenizer, no_speech),
    no_timestamps=no_timestamps,
    first_timestamp=first,
  )


def _languages(tokenizer: Any, ids: Ids) -> dict[str, int]:
  named = ((LANGUAGE.fullmatch(token), at) for token, at in tokenizer.get_vocab().items())
  return {match[1]: at for match, at in named if match and ids.sot < at < ids.translate}
