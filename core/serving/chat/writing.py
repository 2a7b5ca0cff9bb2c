"""A sample's tokens as text that can be sent: whole characters, without stop strings, tool calls taken out."""

import dataclasses
import json
import math
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from core.conversations.tool_calls import CALL, END_CALL, read
from core.files.tokenizers import Detokenizer, byte_characters
from core.serving.chat.worker import News

LEAST = -9999.0  # the log-probability of a token that has none, as OpenAI's interface writes it
_BYTES = {character: byte for byte, character in enumerate(byte_characters())}


class Token(NamedTuple):
  """A token, its log-probability, and the likeliest tokens in its place with theirs."""

  id: int
  logp: float
  top: Sequence[tuple[int, float]] = ()


class Piece(NamedTuple):
  """What a step adds to a sample. calls: complete ones. finish: why it ended, None before."""

  text: str
  calls: list[dict]
  tokens: list[Token]
  finish: str | None


@dataclasses.dataclass
class Writer:
  """One sample. stop: texts that end it. with_calls: whether calls are taken out of the text."""

  model: Any
  stop: Sequence[str] = ()
  with_calls: bool = False

  def __post_init__(self):
    self._detokenizer = Detokenizer(self.model.tokenizer, skip_special_tokens=self.model.skip_special)
    self._raw, self._given = '', 0  # decoded text, and how much of what is said was given out
    self._calls = 0
    self.counted = 0

  def push(self, news: News) -> Piece:
    """The next tokens of the engine."""
    reason = news.reason
    self.counted += len(news.tokens)
    told = map(Token, news.tokens, news.logp, news.top or [()] * len(news.tokens))
    said = [token for token in told if token.id not in self.model.stops]
    self._raw += self._detokenizer.push(*(token.id for token in said))
    if reason:
      self._raw += self._detokenizer.flush()
    text = self.model.said(self._raw)
    if reason == 'stop_string':
      text = cut(text, self.stop)
    fresh, calls = self._fresh(text, ended=reason is not None)
    finish = None
    if reason:
      finish = 'tool_calls' if self._calls else 'length' if reason == 'length' else 'stop'
    return Piece(fresh, calls, said, finish)

  def _fresh(self, text: str, *, ended: bool) -> tuple[str, list[dict]]:
    """(text, calls) that were not given out yet and can be."""
    held = 0
    if not ended:
      held = _held(text, [*self.stop, *([CALL] if self.with_calls else [])])
    safe = text[self._given : len(text) - held]
    if not self.with_calls:
      self._given += len(safe)
      return safe, []
    given = ''
    calls = []
    while (start := safe.find(CALL)) >= 0:
      end = safe.find(END_CALL, start)
      if end < 0:
        break
      given += _before(safe[:start])
      call = read(safe[start + len(CALL) : end])
      stop = end + len(END_CALL)
      if call.error:
        given += safe[start:stop]  # the model's mistake is for the client to see
      else:
        calls.append(self._call(call))
      self._given += stop
      safe = safe[stop:]
    rest = safe if ended or start < 0 else safe[:start]
    self._given += len(rest)
    return given + (_before(rest) if self._calls else rest), calls

  def _call(self, call: Any) -> dict[str, Any]:
    arguments = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments, ensure_ascii=False)
    function = {'name': call.name, 'arguments': arguments}
    made = {'index': self._calls, 'id': f'call_{secrets.token_hex(12)}', 'type': 'function', 'function': function}
    self._calls += 1
    return made


def _before(text: str) -> str:
  """Text between calls: nothing if it is white space."""
  if text.strip():
    return text
  return ''


def _held(text: str, endings: Sequence[str]) -> int:
  """How many of the last characters may begin one of the endings."""
  held = 0
  for ending in endings:
    for size in range(min(len(ending) - 1, len(text)), held, -1):
      if text.endswith(ending[:size]):
        held = size
        break
  return held


def cut(text: str, stop: Sequence[str]) -> str:
  """The text before the first stop string; one that began in the prompt leaves the characters that it shares."""
  found = [at for at in (text.find(s) for s in stop) if at >= 0]
  if found:
    return text[: min(found)]
  shared = [size for s in stop for size in range(1, len(s)) if text.endswith(s[-size:])]
  return text[: len(text) - max(shared, default=0)]


def logprob(tokenizer: Any, token: Token) -> dict[str, Any]:
  """A token's log-probability in the form of chat completions."""
  top = [_entry(tokenizer, *likely) for likely in token.top]
  return _entry(tokenizer, token.id, token.logp) | {'top_logprobs': top}


def _entry(tokenizer: Any, token: int, value: float) -> dict[str, Any]:
  data = token_bytes(tokenizer, token)
  finite = value if math.isfinite(value) else LEAST
  return {'token': data.decode('utf-8', 'replace'), 'logprob': finite, 'bytes': list(data)}


def token_bytes(tokenizer: Any, token: int) -> bytes:
  """The bytes that a token stands for, which need not be whole characters."""
  written = tokenizer.convert_ids_to_tokens(token) or ''
  if token not in tokenizer.added_tokens_decoder and all(character in _BYTES for character in written):
    return bytes(_BYTES[character] for character in written)
  return tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False).encode()
