"""The prompt that asks for a variant of a problem, and the variant in what the policy wrote."""

import dataclasses
import re

from rl.query import Query
from rl.rewards.extract import strip_thoughts

PLACE = '{response}'  # of the solution in a template
TEMPLATE = """You are an expert in education who composes problems for examinations.

The following is a correct solution of a problem that you are not shown.

<response>
{response}
</response>

First analyse the solution in three points: its subject and topic, the kind of reasoning that it uses, and what it is \
meant to teach. Then compose a new, original problem that this solution answers correctly. The problem must be \
realistic, fully specified, explicit and unambiguous. Do not copy a problem that you know.

Write only the problem inside a block like this one:

```text
the new problem
```"""
# A fence opens and closes on lines of its own, and has no other fence inside.
_FENCE = re.compile(r'^[ \t]*```[ \t]*(\w*)[ \t]*\n((?:(?!```).)*)\n[ \t]*```[ \t]*$', re.DOTALL | re.MULTILINE)
_BOX = r'\\boxed\s*\{\s*%s\s*\}'


def messages(response: str, template: str = TEMPLATE) -> list[dict]:
  """The conversation that asks for a variant, whose only context is a correct solution."""
  return [{'role': 'user', 'content': template.replace(PLACE, response)}]


def extract(text: str) -> str | None:
  """The problem in a written text: the first fence labelled `text` after the thoughts, else the first without a label.

  None where no such fence is closed, and where it is empty.
  """
  fences = _FENCE.findall(strip_thoughts(text))
  for wanted in ('text', ''):
    for label, content in fences:
      if label == wanted:
        return content.strip() or None
  return None


def leaks(variant: str, answer: str) -> bool:
  """Whether a variant has its own answer in a box."""
  return re.search(_BOX % re.escape(answer.strip()), variant) is not None


def instructed(query: Query, instruction: str) -> Query:
  """The query with the answer instruction after its last turn."""
  if not instruction:
    return query
  *before, last = query.messages
  asked = {**last, 'content': f'{last["content"]}\n{instruction}'}
  return dataclasses.replace(query, messages=[*before, asked])
