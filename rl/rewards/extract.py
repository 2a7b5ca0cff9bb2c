"""Find the answer in a model's output: after the thoughts, in a tag, in a box, or after the words "answer:"."""

import re

_CLOSING_THOUGHT = re.compile(
  r'</\s*(?:think(?:ing)?|thought|reasoning)\s*>|◁/think▷|\[/THINK\]|<\|end_of_thought\|>'
  r'|<\|channel\|>\s*final\s*<\|message\|>',
  re.IGNORECASE,
)
_OPENING_THOUGHT = re.compile(r'<\s*(?:think(?:ing)?|thought|reasoning)\s*>|◁think▷|\[THINK\]', re.IGNORECASE)
_ANSWER_TAG = re.compile(r'<\s*answer\s*>(?P<answer>(?:(?!<\s*/?\s*answer\s*>).)*)<\s*/\s*answer\s*>', re.I | re.S)
_TOKEN_BOX = re.compile(r'<\|begin_of_box\|>(.*?)<\|end_of_box\|>', re.DOTALL)
_SAID = re.compile(
  r'(?:\b(?:answer|(?:correct|right|best)\s+(?:option|choice)|final\s+(?:option|choice))|答案)'
  r'[*_`"\s]{0,8}(?:is|would\s+be|should\s+be|must\s+be|[:：=]|应?[是为])[*_`"\t ]{0,8}[:：]?',
  re.IGNORECASE,
)
_HEADING = re.compile(r'^[#*_\s]{0,8}(?:final\s+)?answer[*_:\s]{0,8}$', re.IGNORECASE | re.MULTILINE)
_HASHES = re.compile(r'^\s{0,8}####[ \t]+([^\n]+)$', re.MULTILINE)
_EMPHASIS = re.compile(r'\*\*|__|`')
# An escaped character is one token, so an escaped brace never counts as a brace.
_BRACES = re.compile(r'(?P<box>\\(?:boxed|fbox)\s*\{)|(?P<open>\{)|(?P<close>\})|\\.', re.DOTALL)
_COMPAT_BOX = '\\boxed{'


def strip_thoughts(text: str) -> str:
  """The text after the last closing think tag; all of it if there is none."""
  end = 0
  for tag in _CLOSING_THOUGHT.finditer(text):
    end = tag.end()
  return text[end:]


def last_tag(text: str) -> str | None:
  """The content of the last whole `<answer>` element; None without one."""
  found = _ANSWER_TAG.findall(text)
  if found:
    return found[-1].strip()
  return None


def last_said(text: str) -> str | None:
  """What follows the last "answer is", "answer:", "correct option is" or answer heading, to the end of its line.

  If the rest of that line is blank, the next line that is not. GSM8K's `#### 5` counts as such a line.
  """
  ends = [pattern.end() for kind in (_SAID, _HEADING) for pattern in kind.finditer(text)]
  hashes = list(_HASHES.finditer(text))
  if hashes and hashes[-1].start() > max(ends, default=-1):
    return hashes[-1][1].strip()
  if not ends:
    return None
  tail = text[max(ends) :].lstrip(' \t\r\n*_:')
  return tail.partition('\n')[0].strip() or None


def plain(text: str) -> str:
  """`text` without Markdown emphasis."""
  return _EMPHASIS.sub('', text).strip().strip('*_').strip()


def final_answer(text: str) -> str | None:
  """What an output marks as its answer; None where it marks nothing.

  Only what follows the thoughts is read, and nothing of thoughts that never end. The last answer tag narrows the
  search; in it, or without one, the last box counts, else what was said to be the answer.
  """
  region = conclusion(text)
  tag = last_tag(region)
  region = region if tag is None else tag
  for find in (_boxed, last_said):
    answer = find(region)
    if answer is not None:
      return answer
  return tag


def conclusion(text: str) -> str:
  """The text after the thoughts; the text before them if they never end."""
  return without_unfinished(strip_thoughts(text))


def without_unfinished(text: str) -> str:
  """The text before thoughts that never end."""
  closed = len(text) - len(strip_thoughts(text))
  unfinished = _OPENING_THOUGHT.search(text, closed)
  if unfinished:
    return text[: unfinished.start()]
  return text


def _boxed(text: str) -> str | None:
  tokens = _TOKEN_BOX.findall(text)
  if tokens:
    return tokens[-1].strip()
  return last_box(text)


def last_box(text: str) -> str | None:
  r"""The content of the last balanced `\boxed{…}` or `\fbox{…}`, outermost first; None without one.

  One pass, so megabytes of unbalanced braces cost no more than their length.
  """
  found = None
  pending = []
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

  The last balanced box after the last closing think tag counts; if none is there, the last one anywhere but in
  thoughts that never end.
  `compat` gives the rule of the public CMPhysBench code instead: the first box of the whole output, thoughts
  included, every brace counted, an unbalanced box being no answer.
  """
  if compat:
    return _first_box(text)
  answer = last_box(conclusion(text))
  if answer is None:
    return last_box(without_unfinished(text))
  return answer


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
