"""Words in an answer that may decide it: directions, changes, signs, yes and no."""

import re

_TEXT = re.compile(r'\\(?:text|textrm|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}')
_STEMS = (
  *('increas', 'decreas', 'unchanged', 'constant', 'larger', 'smaller', 'greater', 'less', 'higher', 'lower'),
  *(
    'positive',
    'negative',
    'yes',
    'no',
    'not',
    'true',
    'false',
    'odd',
    'even',
    'real',
    'virtual',
    'stable',
    'unstable',
  ),
  *('upward', 'downward', 'up', 'down', 'left', 'right', 'inward', 'outward', 'north', 'south', 'east', 'west'),
  *('clockwise', 'counterclockwise', 'anticlockwise', 'attractive', 'repulsive', 'allowed', 'forbidden'),
)
_WORD = re.compile(rf'\b({"|".join(sorted(_STEMS, key=len, reverse=True))})(?:es|ed|ing|e|s)?\b', re.IGNORECASE)
_SAME = {'anticlockwise': 'counterclockwise', 'up': 'upward', 'down': 'downward'}


def deciding_words(text: str) -> tuple[str, ...]:
  """The deciding words inside the text commands of a LaTeX answer, in order, without their endings."""
  found = [match[1].lower() for part in _TEXT.findall(text) for match in _WORD.finditer(part)]
  return tuple(_SAME.get(word, word) for word in found)


def contradict(reference: str, prediction: str) -> bool:
  """Whether both answers have deciding words, and not the same ones."""
  wanted = deciding_words(reference)
  given = deciding_words(prediction)
  return bool(wanted and given) and wanted != given
