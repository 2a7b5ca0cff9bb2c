"""The objects of OpenAI's interface: whole replies and the chunks of streams, of chat and text completions."""

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from core.serving.chat.asked import Asked, Chat
from core.serving.chat.model import Prepared
from core.serving.chat.writing import Piece, Token, Writer, logprob


class Replies:
  """Objects for one request. writers: of its samples, in order."""

  def __init__(self, asked: Asked, prepared: Sequence[Prepared], writers: Sequence[Writer]):
    self.asked = asked
    self._prepared = prepared
    self._writers = writers
    self.is_chat = isinstance(asked, Chat)
    self._tokenizer = writers[0].model.tokenizer
    kind = 'chatcmpl' if self.is_chat else 'cmpl'
    self._head = {
      'id': f'{kind}-{secrets.token_hex(12)}',
      'created': int(time.time()),
      'model': asked.model,
    }

  def usage(self) -> dict[str, Any]:
    """Token counts; those of a prompt with several samples count once."""
    prompt = sum(len(p.request.prompt) for p in self._prepared)
    said = sum(writer.counted for writer in self._writers)
    usage: dict[str, Any] = {
      'prompt_tokens': prompt,
      'completion_tokens': said,
      'total_tokens': prompt + said,
    }
    details = self._details()
    if details:
      usage['prompt_tokens_details'] = details
    return usage

  def _details(self) -> dict[str, Any]:
    """The details of all prompts: whole numbers are added, of other values the last is kept."""
    details: dict[str, Any] = {}
    for prepared in self._prepared:
      for name, value in prepared.details.items():
        if isinstance(value, int) and name in details:
          value += details[name]
        details[name] = value
    return details

  def whole(self, samples: Sequence[Sequence[Piece]]) -> dict[str, Any]:
    """The reply of all samples, each given by its pieces."""
    kind = 'text_completion'
    choice = self._text_choice
    if self.is_chat:
      kind = 'chat.completion'
      choice = self._chat_choice
    choices = [choice(index, pieces) for index, pieces in enumerate(samples)]
    return {**self._head, 'object': kind, 'choices': choices, 'usage': self.usage()}

  def opening(self) -> list[dict[str, Any]]:
    """The chunks that begin a stream."""
    if not self.is_chat:
      return []
    delta = {'role': 'assistant', 'content': ''}
    choices = [_choice(index, delta=delta) for index in range(len(self._writers))]
    return [self._chunk([choice]) for choice in choices]

  def chunks(self, index: int, piece: Piece) -> list[dict[str, Any]]:
    """The chunks that a piece makes of a sample; none if it has nothing to say yet."""
    logprobs = self._logprobs(piece.tokens)
    if self.is_chat:
      choices = _deltas(index, piece, logprobs)
    elif piece.text or piece.finish or logprobs:
      choices = [_choice(index, text=piece.text, logprobs=logprobs, finish_reason=piece.finish)]
    else:
      choices = []
    return [self._chunk([choice]) for choice in choices]

  def ending(self) -> list[dict[str, Any]]:
    """The chunk with token counts, where it was asked for."""
    if self.asked.usage:
      return [{**self._chunk([]), 'usage': self.usage()}]
    return []

  def _chunk(self, choices: list[dict]) -> dict[str, Any]:
    kind = 'chat.completion.chunk' if self.is_chat else 'text_completion'
    chunk = {**self._head, 'object': kind, 'choices': choices}
    if self.asked.usage:
      chunk['usage'] = None
    return chunk

  def _chat_choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
    calls = [_whole_call(call) for piece in pieces for call in piece.calls]
    text = ''.join(piece.text for piece in pieces)
    content = text
    if calls and not text:
      content = None
    message = {'role': 'assistant', 'content': content, 'refusal': None}
    if calls:
      message['tool_calls'] = calls
    logprobs = self._all_logprobs(pieces)
    return _choice(index, message=message, logprobs=logprobs, finish_reason=pieces[-1].finish)

  def _text_choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
    text = ''.join(piece.text for piece in pieces)
    logprobs = self._all_logprobs(pieces)
    return _choice(index, text=text, logprobs=logprobs, finish_reason=pieces[-1].finish)

  def _all_logprobs(self, pieces: Sequence[Piece]) -> Mapping | None:
    if not self.asked.logprobs:
      return None
    tokens = [token for piece in pieces for token in piece.tokens]
    return self._logprobs(tokens) or self._empty_logprobs()

  def _logprobs(self, tokens: Sequence[Token]) -> Mapping | None:
    """Log-probabilities of tokens in the form of the endpoint; None where none were asked for, or without tokens."""
    if not self.asked.logprobs or not tokens:
      return None
    entries = [logprob(self._tokenizer, token) for token in tokens]
    if self.is_chat:
      return {'content': entries, 'refusal': None}
    top = None
    if self.asked.top_logprobs:
      top = [_by_text(entry['top_logprobs']) for entry in entries]
    return {
      'tokens': [entry['token'] for entry in entries],
      'token_logprobs': [entry['logprob'] for entry in entries],
      'top_logprobs': top,
      'text_offset': [],
    }

  def _empty_logprobs(self) -> Mapping:
    if self.is_chat:
      return {'content': [], 'refusal': None}
    return {'tokens': [], 'token_logprobs': []}


def _deltas(index: int, piece: Piece, logprobs: Mapping | None) -> list[dict[str, Any]]:
  """The choices of a chat's stream that a piece makes: text, then each call, then the reason of the end."""
  deltas: list[dict] = []
  if piece.text or logprobs:
    deltas.append({'content': piece.text})
  deltas += [{'tool_calls': [call]} for call in piece.calls]
  choices = [_choice(index, delta=delta) for delta in deltas]
  if choices:
    choices[0]['logprobs'] = logprobs
  if piece.finish:
    choices.append(_choice(index, delta={}, finish_reason=piece.finish))
  return choices


def _whole_call(call: Mapping) -> dict[str, Any]:
  """A call as a whole reply has it, without its number in the stream."""
  return {name: call[name] for name in ('id', 'type', 'function')}


def _by_text(top: Sequence[Mapping]) -> dict[str, float]:
  """Likeliest tokens in the form of text completions: of tokens with the same text the likeliest counts."""
  return {entry['token']: entry['logprob'] for entry in reversed(top)}


def _choice(index: int, *, logprobs: Any = None, finish_reason: str | None = None, **said: Any) -> dict[str, Any]:
  return {'index': index, **said, 'logprobs': logprobs, 'finish_reason': finish_reason}
