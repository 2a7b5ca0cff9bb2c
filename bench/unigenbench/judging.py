"""What the judge is asked about an image, and how its reply is read."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from string import Template

from bench.harness.literals import MAX_CHARS, read_list
from bench.unigenbench.prompts import Prompt

ENGLISH = """\
You describe images exactly and without bias, in English.

The image was made from this prompt:
$prompt

It is examined for these checkpoints: $names

## What each checkpoint asks
$definitions

## What each checkpoint refers to in this prompt
$phrases

## Task
1. For each checkpoint, in the order given, look at the image and say what it shows.
2. For each checkpoint give 1 if the image satisfies it, else 0.

## Rules
Say only what can be seen directly. Tell no story and make no guesses; leave out what is unclear. \
Do not describe feelings or abstract ideas.

## Output
<description>
  <prompt>the prompt</prompt>
  <checkpoint>the checkpoints</checkpoint>
  <analysis>["what the image shows for checkpoint 1", "…"]</analysis>
  <score>[1 or 0 for checkpoint 1, …]</score>
</description>
Both lists have exactly $count entries, one for each checkpoint."""

CHINESE = """\
你用中文准确、客观地描述图像。

图像由以下提示生成：
$prompt

需要检查的考点：$names

## 每个考点的含义
$definitions

## 每个考点在本提示中所指的内容
$phrases

## 任务
1. 按给出的顺序，针对每个考点观察图像，说明图像中呈现了什么。
2. 针对每个考点打分：图像满足该考点为 1，否则为 0。

## 规则
只写能直接看到的内容。不编故事，不推测；不清楚的不写。不描述情感或抽象概念。

## 输出
<description>
  <prompt>提示原文</prompt>
  <checkpoint>考点</checkpoint>
  <analysis>["针对考点 1 的观察", "…"]</analysis>
  <score>[考点 1 的 1 或 0, …]</score>
</description>
两个列表都恰好有 $count 项，每个考点一项。"""

TEMPLATES = {'en': ENGLISH, 'zh': CHINESE}
FIELDS = ('prompt', 'names', 'definitions', 'phrases', 'count')

_TAGS = re.compile(r'<(?P<close>/?)\s*(?P<name>score|analysis)\b[^<>]{0,200}>', re.IGNORECASE)
_FENCE = re.compile(r'^\s*```[a-z]*\s*|\s*```\s*$', re.IGNORECASE)
_BIT = {0: 0, 1: 1, '0': 0, '1': 1}


def question(prompt: Prompt, template: str = '') -> str:
  """The instruction for an image of `prompt`. Raises ValueError for a template with an unknown field."""
  names = [getattr(point, prompt.language) for point in prompt.points]
  asks = [getattr(point, f'asks_{prompt.language}') for point in prompt.points]

  def listed(texts: Sequence[str]) -> str:
    pairs = enumerate(zip(names, texts), 1)
    lines = [f'{i}. {name}: {text}' for i, (name, text) in pairs]
    return '\n'.join(lines)

  fields: Mapping[str, str] = {
    'prompt': prompt.text,
    'names': ' | '.join(names),
    'definitions': listed(asks),
    'phrases': listed(prompt.phrases),
    'count': str(len(names)),
  }
  try:
    return Template(template or TEMPLATES[prompt.language]).substitute(fields)
  except (KeyError, ValueError) as error:
    raise ValueError(
      f'judge template: {error}; its fields are {", ".join("$" + f for f in FIELDS)}, and a dollar sign is written $$'
    ) from None


def template_hash(template: str) -> str:
  """Identifies the wording of a judge's prompt."""
  return hashlib.sha256(template.encode()).hexdigest()


def read_scores(text: str, count: int) -> list[int]:
  """The last score element as zeros and ones.

  1, "1", 1.0 and true are ones. A bare number will do for one checkpoint. Raises ValueError for anything
  else, so that the judge is asked again.
  """
  body = _last_element('score', text)
  if body is None:
    raise ValueError('no score element')
  if len(body) > MAX_CHARS:
    raise ValueError(f'a score element of {len(body)} characters')
  body = _FENCE.sub('', body.strip()).strip()
  values = read_list(f'[{body}]' if count == 1 and body[:1] not in ('[', '(', "'", '"') else body)
  if len(values) != count:
    raise ValueError(f'{len(values)} scores for {count} checkpoints')
  try:
    return [_BIT[value] for value in values]
  except KeyError as error:
    raise ValueError(f'a score of {error}') from None


def read_analysis(text: str) -> str:
  """The last analysis element as raw text; empty without one. Nothing depends on it."""
  return (_last_element('analysis', text) or '').strip()[:MAX_CHARS]


def _last_element(name: str, text: str) -> str | None:
  """The content of the last closed element of that name. One pass over the tags, even if some are not closed."""
  start = found = None
  for tag in _TAGS.finditer(text):
    if tag['name'].lower() != name:
      continue
    if not tag['close']:
      start = tag.end()
    elif start is not None:
      found = text[start : tag.start()]
      start = None
  return found
