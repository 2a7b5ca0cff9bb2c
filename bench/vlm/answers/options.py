"""Which option of a multiple-choice question, or which open answer, a text means.

`choices` maps letters to option texts. The rules are those of the MMMU repository (also in InternVL's
evaluation code) and of VLMEvalKit, by name; neither guesses unless asked to.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence

REFUSED = 'Z'
_EDGE = ",.!?;:'"
_NOT_ANSWERED = 'Failed to obtain answer via API'
_REFUSALS = (
  "Sorry, I can't help with images of people yet.",
  "I can't process this file.",
  "I'm sorry, but without the image provided",
  'Cannot determine the answer',
)
_TO_BLANKS = str.maketrans(dict.fromkeys('.()[],:;!*#{}', ' '))
_PHRASE = re.compile(r'answer\s+is\s+\**([ABCD])\**', re.IGNORECASE)  # "answer is a tree" is A, as published

_CUES = ('could be ', 'so ', 'is ', 'thus ', 'therefore ', 'final ', 'answer ', 'result ')
_GROUPED = re.compile(r'-?\b\d{1,3}(?:,\d{3})+\b')
_SCIENTIFIC = re.compile(r'-?\d{1,40}(?:\.\d{1,40})?[eE][+-]?\d{1,4}')
_PLAIN = re.compile(r'-?(?:\d{1,400}\.\d{1,400}|\.\d{1,400}|\d{1,400}\b)(?![eE][+-]?\d)(?![,\d])')


def mmmu_option(text: str, choices: Mapping[str, str], *, strict: bool = False) -> str | None:
  """The option by MMMU's official rule; None where that rule draws a random one.

  "(X)", else " X " among blanks, else in more than five words an option's text; of several the last position
  wins. strict: an option's text must stand as whole words.
  """
  for mark in _EDGE:
    text = text.strip(mark)
  text = f' {text} '
  for form in ('({})', ' {} '):
    places = {letter: text.rfind(form.format(letter)) for letter in choices}
    if max(places.values()) >= 0:
      return max(places, key=places.get)
  return named_option(text, choices, strict=strict)


def named_option(text: str, choices: Mapping[str, str], *, strict: bool = False) -> str | None:
  """The option whose text is last in more than five words; None for none. strict: as whole words."""
  if len(text.split()) <= 5:
    return None
  low = text.lower()
  places = {letter: _last_place(str(option).lower(), low, strict) for letter, option in choices.items()}
  if max(places.values()) >= 0:
    return max(places, key=places.get)
  return None


def _last_place(part: str, text: str, whole_words: bool) -> int:
  if not whole_words:
    return text.rfind(part)
  found = []
  if part.strip():
    found = [m.start() for m in re.finditer(rf'(?<!\w){re.escape(part)}(?!\w)', text)]
  if found:
    return found[-1]
  return -1


def guess(item_id: str, choices: Sequence[str]) -> str:
  """The official rule's random option, but one that depends on the item alone."""
  return sorted(choices)[int(hashlib.sha256(item_id.encode()).hexdigest(), 16) % len(choices)]


def vlmevalkit_option(text: str, choices: Mapping[str, str]) -> str | None:
  """The option by VLMEvalKit's inference; "Z" for a refusal, None where it asks a judge."""
  if _NOT_ANSWERED in text:
    return None
  if any(refusal in text for refusal in _REFUSALS):
    return REFUSED
  words = text.translate(_TO_BLANKS).split()
  letters = [letter for letter in choices if letter in words]
  if len(letters) == 1 and words.index(letters[0]) > len(words) - 5:
    return letters[0]
  if not letters and REFUSED in words:
    return REFUSED
  phrase = _PHRASE.search(text)
  if phrase and phrase[1].upper() in choices:
    return phrase[1].upper()
  return _contained_option(text.lower(), {letter: str(option).lower() for letter, option in choices.items()})


def _contained_option(text: str, choices: Mapping[str, str]) -> str | None:
  if len(text) > 2 * sum(len(option) for option in choices.values()):
    return None
  found = [letter for letter, option in choices.items() if option in text]
  if len(found) == 1:
    return found[0]
  return None


def answer_line(text: str, choices: Mapping[str, str]) -> str | None:
  """The letter of the last line that says "Answer: X", as MMMU-Pro's prompts ask for."""
  lines = re.findall(r'^\W*answer\s*:\W*([A-Za-z])\b', text, re.IGNORECASE | re.MULTILINE)
  letter = None
  if lines:
    letter = lines[-1].upper()
  if letter in choices:
    return letter
  return None


def open_answers(text: str) -> list[str | float]:
  """What MMMU's official rule takes an output to say: tails after cue words, and every number in them."""
  tails = _tails(text.strip().strip('.').lower())
  found = [*tails, *(number for tail in tails for number in _numbers(tail))]
  return [form for part in found for form in _forms(part)]


def open_correct(text: str, golds: Sequence[str], *, strict: bool = False) -> bool:
  """MMMU's official test: an equal number, or a gold text contained in a predicted text.

  strict: contained as whole words, so that "category" no longer holds "cat".
  """
  wanted = [form for gold in golds for form in _forms(gold)]
  texts = [gold for gold in wanted if isinstance(gold, str)]
  for answer in open_answers(text):
    if not isinstance(answer, str):
      if answer in wanted:
        return True
    elif any(_holds(answer, gold, strict) for gold in texts):
      return True
  return False


def _holds(text: str, part: str, whole_words: bool) -> bool:
  if whole_words:
    return _last_place(part.strip(), text, True) >= 0
  return part in text


def _tails(text: str) -> list[str]:
  lines = text.split('\n')
  tails = []
  for number, line in enumerate(lines):
    cues = _CUES
    if number == len(lines) - 1:
      cues = (*_CUES, '=')
    after = [line.rsplit(cue, 1)[1].strip() for cue in cues if cue in line]
    # The shortest tail, the first of equals; an empty one never beats an earlier cue's, as in the official
    # code.
    tail = ''
    for candidate in after:
      if not tail or len(candidate) < len(tail):
        tail = candidate
    if tail and tail not in _EDGE:
      tails.append(tail)
  return tails or [text]


def _numbers(text: str) -> list[str]:
  return [*_GROUPED.findall(text), *_SCIENTIFIC.findall(text), *_PLAIN.findall(text)]


def _forms(part: str) -> list[str | float]:
  """A number rounded to two decimals, else lower-case text; a single letter only counts next to a blank."""
  part = part.strip()
  try:
    return [round(float(part.replace(',', '')), 2)]
  except (ValueError, OverflowError):
    low = part.lower()
    if len(low) == 1:
      return [f' {low}', f'{low} ']
    return [low]
