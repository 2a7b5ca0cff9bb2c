"""Text normalisers, by name: Whisper's, the one of the Seed-TTS evaluation, and none."""

import functools
import importlib.resources
import json
import re
import string
from collections.abc import Callable

_SPEAKER = re.compile(r'^\s*\[?(?:speaker|spk)[ _]?\d+\]?\s*:', re.IGNORECASE | re.MULTILINE)
_TIMES = re.compile(r'<\|\d+(?:\.\d+)?\|>|[\[(]\s*\d[\d:.,]*\s*(?:-->|-|–|,)\s*\d[\d:.,]*\s*[\])]')

_CHINESE_PUNCTUATION = (
  '＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､　、〃'
  '〈〉《》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏﹑﹔·！？｡。'
)
_SEED_DELETE = str.maketrans('', '', (string.punctuation + _CHINESE_PUNCTUATION).replace("'", ''))

LONGEST = 1_000_000
_MOST_STEPS = 100_000_000


def unbearable(text: str) -> bool:
  """Whether a text is too long to normalise.

  Whisper's patterns for bracketed text look ahead from every opening bracket, so a large number that never
  close take time that grows with the square of the length: a minute for 60 000.
  """
  return len(text) > LONGEST or len(text) * sum(map(text.count, '[(<')) > _MOST_STEPS


def strip_tags(text: str) -> str:
  """`text` without speaker tags and time stamps."""
  return _TIMES.sub(' ', _SPEAKER.sub(' ', text))


@functools.cache
def _whisper_english() -> Callable[[str], str]:
  from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

  # The spelling table is OpenAI's; transformers wants it from a checkpoint's folder, whisper-normalizer ships
  # it.
  table = importlib.resources.files('whisper_normalizer') / 'normalizers' / 'english.json'
  return EnglishTextNormalizer(json.loads(table.read_text(encoding='utf-8')))


@functools.cache
def _whisper_basic(characters: bool) -> Callable[[str], str]:
  from transformers.models.whisper.english_normalizer import BasicTextNormalizer

  return BasicTextNormalizer(remove_diacritics=characters, split_letters=characters)


def _seed_tts(text: str) -> str:
  return text.translate(_SEED_DELETE).replace('  ', ' ').lower()


def _seed_tts_chinese(text: str) -> str:
  return ' '.join(text.translate(_SEED_DELETE).replace('  ', ' '))


NORMALISERS: dict[str, Callable[[str], str]] = {
  'none': lambda text: text,
  'whisper_english': lambda text: _whisper_english()(text),
  'whisper_basic': lambda text: _whisper_basic(False)(text),
  'whisper_basic_chars': lambda text: _whisper_basic(True)(text),
  'seed_tts_en': _seed_tts,
  'seed_tts_zh': _seed_tts_chinese,
}


def normaliser(name: str) -> Callable[[str], str]:
  """The normaliser of that name. Raises ValueError for an unknown one, listing those there are."""
  if name not in NORMALISERS:
    raise ValueError(f'normaliser is {name!r}, expected one of {", ".join(NORMALISERS)}')
  return NORMALISERS[name]
