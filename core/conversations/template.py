"""The chat template of a tokenizer as token ids, in which what people and models say cannot forge special tokens.

T tokens
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.files.tokenizers import TextEncoder

MARK = '\ue000{}\ue001'  # in place of a turn's text while a template is rendered; private-use characters


class ChatTemplate:
  """Writes conversations as the tokenizer's template lays them out."""

  def __init__(self, tokenizer: Any):
    self._tokenizer = tokenizer
    self.encode = TextEncoder(tokenizer)  # of what is said: special tokens written out are plain text

  def __call__(
    self, messages: Sequence[Mapping], tools: Sequence[Mapping] | None = None, options: Mapping[str, Any] | None = None
  ) -> np.ndarray:
    """A prompt for the assistant's next turn, int32 [T].

    messages: {role, content} with a text as content, and `tool_calls` of an assistant's turn. tools: schemas that the
    template describes. options: further variables of the template. Raises ValueError for tools and calls that have a
    special token, and for what the template refuses.
    """
    given = json.dumps([list(tools or ()), [m.get('tool_calls') for m in messages]], ensure_ascii=False)
    if self.encode.forges(given):
      raise ValueError('a tool or an earlier call of one has a special token of the model; expected plain text')
    write = lambda texts: self._render(messages, texts, tools, options or {})
    texts = [m['content'] for m in messages]
    if not any(self.encode.forges(text) for text in texts):
      return np.array(self._ids(write(texts)), np.int32)
    marks = [MARK.format(n) for n in range(len(texts))]
    rest = write(marks)
    ids = []
    for mark, text in zip(marks, texts):
      before, _, rest = rest.partition(mark)
      ids += [*self._ids(before), *self.encode(text)]
    return np.array([*ids, *self._ids(rest)], np.int32)

  def _render(self, messages, texts: Sequence[str], tools, options: Mapping[str, Any]) -> str:
    from jinja2.exceptions import TemplateError

    turns = [{**m, 'content': text} for m, text in zip(messages, texts)]
    fixed = {'tokenize': False, 'add_generation_prompt': True}
    try:
      return self._tokenizer.apply_chat_template(turns, tools=list(tools) if tools else None, **{**options, **fixed})
    except TemplateError as error:
      raise ValueError(f'the chat template refuses this conversation: {error}') from error

  def _ids(self, text: str) -> list[int]:
    return self._tokenizer.encode(text, add_special_tokens=False)
