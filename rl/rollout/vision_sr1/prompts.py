r"""The prompts of both passes, and the parts of what the policy answers.

The released template has backslash-n in place of line breaks, and a period after the box that its own format check
rejects; `FIRST` has neither.
"""

import dataclasses
import re

from rl.query import Query

IMAGE = '<image>'
_BOX = r'\boxed{}'
_SKELETON = r'<think> the reasoning </think> \boxed{the answer}'
FIRST = (
  'First describe the image or video inside <description> </description>. The description must stand on its own: so '
  'detailed that the question can be answered from it alone, but without the final answer. Then reason step by step '
  f'and check yourself inside <think> </think>. Last give a single word or phrase in {_BOX}. Write exactly\n'
  f'<description> the description </description> {_SKELETON}'
)
FIRST_RELEASED = FIRST.replace('\n', r'\n') + '.'
REASON_ONLY = (
  f'Reason step by step inside <think> </think>, then give a single word or phrase in {_BOX}. '
  f'Write exactly\n{_SKELETON}'
)
SECOND = (
  'Text description: {description}\nQuestion: {question}\n'
  'Answer the question from the text description. First reason inside <think> </think>, then give a single word or '
  r'phrase in \boxed{}.'
)
_DESCRIPTION = re.compile(r'<description>(.*?)</description>', re.DOTALL)
_AROUND_TAGS = re.compile(r'\s*([<>/])\s*')


def cleaned(response: str) -> str:
  """A first response without blanks around `<`, `>` and `/`, as the released rewards read it."""
  return _AROUND_TAGS.sub(r'\1', response)


def description(response: str, *, leaky: bool = False) -> str:
  """The description in a first response; '' without a closed pair of tags, so that no second answer can be right.

  leaky: the whole response instead, as released: its box then tells the second pass the answer.
  """
  found = _DESCRIPTION.search(response)
  if found is None:
    if leaky:
      return response
    return ''
  return found[1].strip()


def span(response: str) -> tuple[int, int]:
  """Where the description begins and ends in a response, tags excluded; (0, 0) without one."""
  found = _DESCRIPTION.search(response)
  if found:
    return found.span(1)
  return (0, 0)


def instructed(query: Query, instruction: str, *, image_last: bool = False) -> Query:
  """The query with the instruction after its question.

  image_last: a single image follows the question, as in the first released data set.
  """
  *before, last = query.messages
  content = last['content']
  if image_last and content.count(IMAGE) == 1:
    content = f'{content.replace(IMAGE, "").strip()}{IMAGE}'
  return dataclasses.replace(query, messages=[*before, {**last, 'content': f'{content}\n{instruction}'}])


def question(query: Query, instruction: str) -> str:
  """The question without images and instruction, for the second pass."""
  asked = query.messages[-1]['content'].removesuffix(f'\n{instruction}')
  return asked.replace(IMAGE, '').strip()


def second(described: str, asked: str, template: str = SECOND) -> list[dict]:
  """The conversation of the second pass: text alone."""
  # One substitution, so that a description with a placeholder in it is not filled in again.
  values = {'{description}': described, '{question}': asked}
  content = re.sub(r'\{description\}|\{question\}', lambda place: values[place[0]], template)
  return [{'role': 'user', 'content': content}]
