"""The option that an output commits to, however it is spelled: `C`, `(c)`, `C) a ship`, `**C**`, a box, a tag.

`choices` maps letters to option texts. Published rules are in `bench.vlm.answers.options`; this reading comes before
them in the default rules and nowhere else.
"""

import re
from collections.abc import Mapping

from bench.vlm.answers.options import named_option
from rl.rewards.extract import conclusion, final_answer, plain

MAX_CHARS = 2_000  # of a short answer; unwrapping is quadratic in its depth
_WRAPPER = re.compile(r'\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathsf|mbox)\s*\{([^{}]*)\}')
_LEAD = re.compile(
  r'^(?:(?:the|correct|final|answer|option|choice|letter|it|is|选项?)\b[\s:]*|[\s"\'$:>-]+)+', re.IGNORECASE
)
_BRACKETED = re.compile(r'[(\[{<]\s*([A-Za-z])\s*[)\]}>]')
_MARKED = re.compile(r'([A-Za-z])\s*(?:[).:,;、：]|$|\n)')
_BARE = re.compile(r'([A-Z])(?=\s|[-–—])')
_ALTERNATIVE = re.compile(r'[\s).\]}]*(?:,|/|&|\bor\b|\band\b)\s*(?:both\s+|option\s+)?[(\[]?([A-Z])\b(?!\')')
_REASON = re.compile(r'\s*(?:[-–—(]|because\b|since\b|as\b|for\b|is\s+(?:the\s+)?(?:correct|right|best|answer))', re.I)
_VERDICT = re.compile(
  r'(?<!\w)[(\[]?([A-Z])[)\]]?\s+(?:is|must be|seems|looks)\s+(?:the\s+)?(?:most\s+)?'
  r'(?:correct|right|best|appropriate|only|answer)'
)
_CHOSEN = re.compile(
  r'\b(?:choose|chose|pick|select|go(?:ing)? with|opt for|choice is|option is|must be|it is|it\'s|therefore|thus|hence'
  r'|so)[\s,:]+(?:option\s+|choice\s+|the answer\s+)?[(\[]?([A-Z])\b(?=[\s.,;:)\]!]|$)(?!\s+[a-z])'
)
_TOKEN = re.compile(r'(?<![\w\'/-])[(\[]?([A-Z])(?=[\s.,;:)\]!?]|$)(?!\.\w)')
_SPECIAL = re.compile(r'<\|[^|<>]{1,40}\|>')
_ARTICLES = frozenset('AI')
_BETWEEN_WORDS = re.compile(r'[^\w.\']+|\.(?!\d)')
_FEW_WORDS = 5  # longer outputs are named_option's
_DENIALS = frozenset(('not', 'no', 'never', "isn't", "don't", 'nor', 'without', 'cannot'))


def chosen(text: str, choices: Mapping[str, str]) -> str | None:
  """The letter of the option that `text` commits to after its thoughts; None where it commits to none.

  What is marked as the answer comes first; else a line that is an option; else the last letter that is a verdict;
  else the last letter in the text; else, as MMMU has it, the last option's text in more than five words; in fewer, the
  one option whose text is among them.
  """
  region = _SPECIAL.sub('', plain(conclusion(text)))
  marked = final_answer(text)
  for part in (marked, region):
    if part is not None and ambiguous(part, choices):
      return None
  if marked is not None:
    marked = _SPECIAL.sub('', plain(marked))
    letter = letter_of(marked, choices) or _last_letter(marked, choices)
    if letter:
      return letter
  letter = _option_line(region, choices) or _last_letter(region, choices)
  return letter or named_option(region, choices, strict=True) or _only_named(region, choices)


def letter_of(candidate: str, choices: Mapping[str, str]) -> str | None:
  """The letter of a short answer that is a letter, an option's text, or one after the other."""
  text = _unwrapped(candidate)
  by_text = _letter_of_text(text, choices)
  text = _LEAD.sub('', text)
  if by_text or ambiguous(text, choices):
    return by_text
  for form in (_BRACKETED, _MARKED):
    match = form.match(text)
    if match and match[1].upper() in choices:
      return match[1].upper()
  bare = _BARE.match(text)
  if bare and bare[1] in choices and _commits(bare[1], text[bare.end() :], choices):
    return bare[1]
  return _letter_of_text(text, choices)


def ambiguous(candidate: str, choices: Mapping[str, str]) -> bool:
  """Whether an answer begins with two letters, as in `B or C`."""
  text = _LEAD.sub('', re.sub(r'^\W*(?:both|either)\s+', '', _unwrapped(candidate), flags=re.IGNORECASE))
  first = _BRACKETED.match(text) or re.match(r'([A-Z])\b', text)
  if not first or first[1] not in choices:
    return False
  other = _ALTERNATIVE.match(text, first.end())
  return bool(other and other[1] in choices and other[1] != first[1])


def _unwrapped(candidate: str) -> str:
  text = candidate[:MAX_CHARS]
  before = None
  while text != before:
    before = text
    text = _WRAPPER.sub(r'\1', text)
  return plain(text.replace('\\(', ' ').replace('\\)', ' ').replace('$', ' ').replace('"', ' ')).strip(" '")


def _letter_of_text(text: str, choices: Mapping[str, str]) -> str | None:
  """The letter of the one option that reads like `text`, but for case, blanks and the last full stop."""
  for form in (_folded, _without_article):
    wanted = form(text)
    same = [letter for letter, option in choices.items() if form(str(option)) == wanted]
    if wanted and len(same) == 1:
      return same[0]
  return None


def _without_article(text: str) -> str:
  return re.sub(r'^(?:an?|the)\s+', '', _folded(text))


def _only_named(region: str, choices: Mapping[str, str]) -> str | None:
  """The one option whose text is among a few words, whole; None where none or several are, or a word denies it."""
  words = _plain_words(region)
  listed = words.split()
  if len(listed) > _FEW_WORDS or _DENIALS.intersection(listed):
    return None
  named = []
  for letter, option in choices.items():
    name = _plain_words(_without_article(str(option)))
    if name and f' {name} ' in f' {words} ':
      named.append(letter)
  return named[0] if len(named) == 1 else None


def _plain_words(text: str) -> str:
  """Words and numbers between single blanks, in lower case."""
  return _BETWEEN_WORDS.sub(' ', _folded(text)).strip()


def _folded(text: str) -> str:
  return ' '.join(_unwrapped(text).rstrip('. ').casefold().split())


def _commits(letter: str, rest: str, choices: Mapping[str, str]) -> bool:
  """Whether a bare letter is a choice: `A` before a word may be an article, `I` a pronoun."""
  follows_option = _folded(rest).startswith(_folded(str(choices[letter])) or '\0')
  return letter not in _ARTICLES or not rest.strip() or bool(_REASON.match(rest)) or follows_option


def _option_line(region: str, choices: Mapping[str, str]) -> str | None:
  """The option that the last line is, else the first; None where the options are only listed."""
  lines = [line for line in region.split('\n') if line.strip()]
  if not lines:
    return None
  listed = [letter_of(line, choices) for line in lines[-12:]]
  if len(lines[-1]) <= 200 and listed[-1] and len(set(filter(None, listed[:-1])) - {listed[-1]}) < 2:
    return listed[-1]
  first = None
  if len(lines[0]) <= 200:
    first = letter_of(lines[0], choices)
  second = None
  if len(lines) > 1:
    second = letter_of(lines[1], choices)
  if second is None or second == first:
    return first
  return None


def _last_letter(region: str, choices: Mapping[str, str]) -> str | None:
  """The last letter that is called right or chosen; else the last single letter that is not an article."""
  for form in (_VERDICT, _CHOSEN):
    named = [m[1] for m in form.finditer(region) if m[1] in choices]
    if named:
      return named[-1]
  letters = [m for m in _TOKEN.finditer(region) if m[1] in choices and not _article(region, m)]
  if letters:
    return letters[-1][1]
  return None


def _article(region: str, match: re.Match) -> bool:
  return match[0] in _ARTICLES and bool(re.match(r'\s+[a-z]', region[match.end() : match.end() + 3]))
