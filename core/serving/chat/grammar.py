"""Responses that follow a JSON schema or call a tool, token by token, by `llguidance` (guidance-ai/llguidance).

V vocabulary
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from core.conversations.tool_calls import CALL, END_CALL

# As models write JSON; other white space would let a weak one write it without end.
SPACING = {'whitespace_flexible': False, 'item_separator': ', ', 'key_separator': ': '}


class Grammars:
  """Grammars over a tokenizer's V tokens; a response that is complete can only end, with one of `stops`."""

  def __init__(self, tokenizer: Any, vocab: int, stops: Sequence[int]):
    self._hf = tokenizer
    self._vocab = vocab
    self._stops = list(stops)

  def of_schema(self, schema: Any) -> Callable[[], 'Matched']:
    """Makes the constraint of a sample that is JSON of a schema. Raises ValueError for one that cannot be followed."""
    from llguidance import LLMatcher

    text = json.dumps(schema)
    try:
      grammar = LLMatcher.grammar_from_json_schema(text, overrides=SPACING)
    except ValueError as error:
      raise ValueError(f'response_format: {error}') from error
    return self._checked(grammar, 'response_format')

  def of_tools(self, tools: Sequence[Mapping]) -> Callable[[], 'Matched']:
    """Makes the constraint of a sample that is a call of one of the tools. Raises ValueError as `of_schema`."""
    from llguidance import LLMatcher

    calls = [_call_schema(tool['function']) for tool in tools]
    body = json.dumps({'anyOf': calls, 'x-guidance': SPACING})
    lark = f'start: {json.dumps(CALL + chr(10))} body {json.dumps(chr(10) + END_CALL)}\nbody: %json {body}'
    return self._checked(LLMatcher.grammar_from_lark(lark), 'tools')

  @functools.cached_property
  def _tokenizer(self):
    from llguidance.hf import from_tokenizer

    return from_tokenizer(self._hf, n_vocab=self._vocab, eos_token=self._stops)

  def _checked(self, grammar: str, field: str) -> Callable[[], 'Matched']:
    from llguidance import LLMatcher

    first = LLMatcher(self._tokenizer, grammar)
    if first.is_error():
      raise ValueError(f'{field}: {first.get_error()}')
    return lambda: Matched(first.deep_copy(), self._vocab)


def _call_schema(function: Mapping[str, Any]) -> dict[str, Any]:
  arguments = function.get('parameters') or {'type': 'object'}
  return {
    'type': 'object',
    'properties': {'name': {'const': function['name']}, 'arguments': arguments},
    'required': ['name', 'arguments'],
    'additionalProperties': False,
  }


class Matched:
  """A `core.engine.request.Constraint` over one matcher."""

  def __init__(self, matcher: Any, vocab: int):
    self._matcher = matcher
    self._vocab = vocab
    self._bits = np.zeros((1, -(-vocab // 32)), np.int32)

  def allowed(self) -> np.ndarray:
    """As in `Constraint`."""
    from llguidance.numpy import fill_next_token_bitmask

    fill_next_token_bitmask(self._matcher, self._bits)
    bits = np.unpackbits(self._bits.view(np.uint8), bitorder='little')
    return bits[: self._vocab].astype(bool)

  def push(self, tokens: Sequence[int]) -> None:
    """As in `Constraint`."""
    self._matcher.consume_tokens(list(tokens))
