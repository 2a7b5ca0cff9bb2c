"""Find the answer in a model's output: the last balanced box after the thoughts."""

import re

_CLOSING_THOUGHT = re.compile(r'</\s*think(?:ing)?\s*>', re.IGNORECASE)
# An escaped character is one token, so an escaped brace never counts as a brace.
_BRACES = re.compile(r'(?P<box>\\(?:boxed|fbox)\s*\{)|(?P<open>\{)|(?P<close>\})|\\.', re.DOTALL)
_COMPAT_BOX = '\\boxed{'


def strip_thoughts(text: str) -> str:
  """The text after the last closing think tag; all of it if there is none."""
  end = 0
  for tag in _CLOSING_THOUGHT.finditer(text):
    end = tag.end()
  return text[end:]


def last_box(text: str) -> str | None:
  r"""The content of the last balanced `\boxed{…}` or `\fbox{…}`, outermost first; None without one.

  One pass, so megabytes of unbalanced braces cost no more than their length.
  """
  found, pending = None, []
  for token in _BRACES.finditer(text):
    if token['box']:
      pending.append(token.end())
    elif token['open']:
      pending.append(None)
    elif token['close'] and pending:
      start = pending.pop()
      if start is not None:
        found = text[start : token.start()]
  return found


def boxed_answer(text: str, *, compat: bool = False) -> str | None:
  """The boxed answer of a whole model output; None without one.

  The last balanced box after the last closing think tag counts; if none is there, the last one anywhere.
  `compat` gives the rule of the public CMPhysBench code instead: the first box of the whole output, thoughts
  included, every brace counted, an unbalanced box being no answer.
  """
  if compat:
    return _first_box(text)
  answer = last_box(strip_thoughts(text))
  return last_box(text) if answer is None else answer


def _first_box(text: str) -> str | None:
  start = text.find(_COMPAT_BOX)
  if start < 0:
    return None
  start += len(_COMPAT_BOX)
  depth = 1
  for brace in re.finditer(r'[{}]', text[start:]):
    depth += 1 if brace[0] == '{' else -1
    if not depth:
      return text[start : start + brace.start()]
  return None
