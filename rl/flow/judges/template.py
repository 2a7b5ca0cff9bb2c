"""What a vision-language judge is asked about two images, and how its reply is read."""

import hashlib
import re
from string import Template

DEFAULT = """\
You judge two images that were generated from the same caption. They are shown in order: image 1, then image 2.

Caption: $caption

First think, inside <think> and </think>:
1. Choose the dimensions. Three are fixed: agreement with the caption, aesthetics, authenticity. Add up to two \
more that matter for this caption.
2. For each dimension write exactly three lines:
<dimension>
Image 1: <score from 1 to 10> - <short reason>
Image 2: <score from 1 to 10> - <short reason>
3. Add up the scores of each image and compare the totals.

Then give the verdict, inside <answer> and </answer>, as exactly one of these two texts:
Image 1 is better
Image 2 is better"""

_ANSWER = re.compile(r'<answer>(.*?)</answer>', re.DOTALL)
# A reply that holds both texts counts for image 1, as released.
VERDICTS = {'Image 1 is better': 'first', 'Image 2 is better': 'second'}


def question(caption: str, template: str = DEFAULT) -> str:
  """The instruction for a caption. Raises ValueError for a template without $caption or with another field."""
  try:
    filled = Template(template).substitute(caption=caption)
  except (KeyError, ValueError) as error:
    raise ValueError(f'judge template: {error}; its one field is $caption, and a dollar sign is written $$') from None
  if '$caption' not in template and '${caption}' not in template:
    raise ValueError('judge template: has no $caption, so the judge would not know what was asked for')
  return filled


def read(reply: str) -> str:
  """The verdict of a reply: 'first' or 'second'; 'tie' where the first answer element names neither image."""
  answer = _ANSWER.search(reply)
  if answer is None:
    return 'tie'
  for text, verdict in VERDICTS.items():
    if text in answer[1]:
      return verdict
  return 'tie'


def template_hash(template: str) -> str:
  """Identifies the wording of a judge's instruction."""
  return hashlib.sha256(template.encode()).hexdigest()
