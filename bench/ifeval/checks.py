"""The 25 verifiable instructions of IFEval (arXiv 2311.07911): one check of a response for each, by published name.

A check takes the response and the arguments of the prompt's row, by their published names. Counts follow the released
code; sentences are split by punctuation, where it asks a trained splitter.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping

_WORD = re.compile(r'\w+')
_SENTENCE_END = re.compile(r'[.!?]+["\')\]]*(?=\s|$)')
_ABBREVIATION = re.compile(r'\b(?:Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|vs|etc|e\.g|i\.e|Inc|Ltd|No|[A-Z])\.(?=\s)')
_BULLET = re.compile(r'^\s*(?:\*[^*\n].*|-.*)$', re.MULTILINE)
_HIGHLIGHT = re.compile(r'\*[^\n*]+\*')
_BOLD = re.compile(r'\*\*[^\n*]+\*\*')
_TITLE = re.compile(r'<<([^\n]+?)>>')
_PLACEHOLDER = re.compile(r'\[[^\[\]]*?\]')
_FENCE = re.compile(r'^```(?:json)?\s*|\s*```$', re.IGNORECASE)
_CONSTRAINED = ('My answer is yes.', 'My answer is no.', 'My answer is maybe.')


def holds(count: int, relation: str, limit: int) -> bool:
  """Whether a count is 'less than' or 'at least' a limit. Raises ValueError for another relation."""
  if relation == 'less than':
    return count < limit
  if relation == 'at least':
    return count >= limit
  raise ValueError(f'relation is {relation!r}, expected "less than" or "at least"')


def _existence(text: str, *, keywords) -> bool:
  return all(re.search(re.escape(word), text, re.IGNORECASE) for word in keywords)


def _frequency(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
  return holds(len(re.findall(re.escape(keyword), text, re.IGNORECASE)), relation, frequency)


def _forbidden(text: str, *, forbidden_words) -> bool:
  return not any(re.search(rf'\b{re.escape(word)}\b', text, re.IGNORECASE) for word in forbidden_words)


def _letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
  return holds(Counter(text.lower())[letter.lower()], let_relation, let_frequency)


def _language(text: str, *, language: str) -> bool:
  import langdetect

  langdetect.DetectorFactory.seed = 0  # its verdict on short texts is random otherwise
  try:
    return langdetect.detect(text) == language
  except langdetect.LangDetectException:  # no letters: the released code counts it as followed
    return True


def _sentences(text: str, *, num_sentences: int, relation: str) -> bool:
  plain = _ABBREVIATION.sub('', text)
  unfinished = bool(_WORD.search(_SENTENCE_END.split(plain)[-1]))
  return holds(len(_SENTENCE_END.findall(plain)) + unfinished, relation, num_sentences)


def _paragraphs(text: str, *, num_paragraphs: int) -> bool:
  """Paragraphs between lines of three asterisks; an empty one inside fails."""
  parts = re.split(r'\s?\*\*\*\s?', text)
  inner = parts[1:-1]
  if any(not part.strip() for part in inner):
    return False
  return sum(bool(part.strip()) for part in parts) == num_paragraphs


def _words(text: str, *, num_words: int, relation: str) -> bool:
  return holds(len(_WORD.findall(text)), relation, num_words)


def _first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
  """Paragraphs between blank lines: how many there are, and the first word of one of them."""
  parts = text.split('\n\n')
  if nth_paragraph > len(parts) or sum(bool(part.strip()) for part in parts) != num_paragraphs:
    return False
  words = parts[nth_paragraph - 1].split()
  first = ''
  if words:
    first = words[0].lstrip('\'"')
  return re.split(r'[.,?!\'"]', first)[0].lower() == first_word.lower()


def _placeholders(text: str, *, num_placeholders: int) -> bool:
  return len(_PLACEHOLDER.findall(text)) >= num_placeholders


def _postscript(text: str, *, postscript_marker: str) -> bool:
  spellings = {'P.P.S': r'p\.\s?p\.\s?s', 'P.S.': r'p\.\s?s\.'}
  pattern = spellings.get(postscript_marker, re.escape(postscript_marker.lower()))
  return bool(re.search(rf'^\s*{pattern}', text.lower(), re.MULTILINE))


def _bullets(text: str, *, num_bullets: int) -> bool:
  return len(_BULLET.findall(text)) == num_bullets


def _constrained(text: str) -> bool:
  return any(option in text for option in _CONSTRAINED)


def _highlights(text: str, *, num_highlights: int) -> bool:
  marked = [*_HIGHLIGHT.findall(text), *_BOLD.findall(text)]
  return sum(bool(part.strip('*').strip()) for part in marked) >= num_highlights


def _sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
  parts = re.split(rf'\s?{re.escape(section_spliter)}\s?\d+\s?', text)
  return len(parts) - 1 >= num_sections


def _json(text: str) -> bool:
  try:
    json.loads(_FENCE.sub('', text.strip()))
  except (ValueError, RecursionError):
    return False
  return True


def _title(text: str) -> bool:
  return any(title.strip('<> ') for title in _TITLE.findall(text))


def _two_responses(text: str) -> bool:
  """Exactly two different responses between lines of six asterisks."""
  parts = text.split('******')
  if any(not part.strip() for part in parts[1:-1]):
    return False
  said = [part.strip() for part in parts if part.strip()]
  return len(said) == 2 and said[0] != said[1]


def _repeat(text: str, *, prompt_to_repeat: str) -> bool:
  return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end(text: str, *, end_phrase: str) -> bool:
  return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quotation(text: str) -> bool:
  text = text.strip()
  return len(text) > 1 and text[0] == text[-1] == '"'


def _capital_words(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
  words = [word for word in re.findall(r"[\w'-]+", text) if word.isupper()]
  return holds(len(words), capital_relation, capital_frequency)


def _upper(text: str) -> bool:
  return text.isupper() and _language(text, language='en')


def _lower(text: str) -> bool:
  return text.islower() and _language(text, language='en')


def _no_comma(text: str) -> bool:
  return ',' not in text


CHECKS: dict[str, Callable[..., bool]] = {
  'keywords:existence': _existence,
  'keywords:frequency': _frequency,
  'keywords:forbidden_words': _forbidden,
  'keywords:letter_frequency': _letter_frequency,
  'language:response_language': _language,
  'length_constraints:number_sentences': _sentences,
  'length_constraints:number_paragraphs': _paragraphs,
  'length_constraints:number_words': _words,
  'length_constraints:nth_paragraph_first_word': _first_word,
  'detectable_content:number_placeholders': _placeholders,
  'detectable_content:postscript': _postscript,
  'detectable_format:number_bullet_lists': _bullets,
  'detectable_format:constrained_response': _constrained,
  'detectable_format:number_highlighted_sections': _highlights,
  'detectable_format:multiple_sections': _sections,
  'detectable_format:json_format': _json,
  'detectable_format:title': _title,
  'combination:two_responses': _two_responses,
  'combination:repeat_prompt': _repeat,
  'startend:end_checker': _end,
  'startend:quotation': _quotation,
  'change_case:capital_word_frequency': _capital_words,
  'change_case:english_capital': _upper,
  'change_case:english_lowercase': _lower,
  'punctuation:no_comma': _no_comma,
}


def followed(name: str, arguments: Mapping, response: str) -> bool:
  """Whether a response that is not blank follows an instruction; arguments of the row that are None are left out."""
  given = {key: value for key, value in arguments.items() if value is not None}
  return bool(response.strip()) and CHECKS[name](response, **given)


def loose(response: str) -> list[str]:
  """The forms of a response of which one has to follow, in the loose accuracy.

  Whole, without its first line, its last line or both, each also without asterisks.
  """
  lines = response.split('\n')
  parts = (lines[1:], lines[:-1], lines[1:-1])
  forms = [response, *('\n'.join(part).strip() for part in parts)]
  without_asterisks = [form.replace('*', '') for form in forms]
  return forms + without_asterisks
