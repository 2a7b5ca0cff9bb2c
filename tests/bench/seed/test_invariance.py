"""Spellings that mean the same never change a score."""

import re

import pytest

from bench.seed import score
from tests.bench.seed.test_pairs import own_pairs

# Spelled in one way only: sentences with formulas in dollar signs, formulas of chemistry, notes over a sign.
_ONE_WAY = re.compile(r'\$|\\ce\b|\\stackrel')
PAIRS = [p for p in own_pairs() if p[1] and p[2] and not _ONE_WAY.search(p[1] + p[2])]
_LETTERS = 'abcmnpqrvw'
_GREEK = ['\\alpha', '\\beta', '\\kappa', '\\lambda', '\\rho', '\\xi', '\\chi', '\\omega', '\\tau', '\\nu']
_NEXT = {a: b for cycle in (list(_LETTERS), _GREEK) for a, b in zip(cycle, cycle[1:] + cycle[:1])}
_WORDS = re.compile(r'\\(?:mathrm|text|operatorname|rm|begin|end|mathbf|boldsymbol)|[ωħµÅ₀]|\\left|\\hat')
# Letters whose names are words or units somewhere.
_PLAIN_TEXT = re.compile(r'[A-Za-z]{3,}')


def thin_spaces(text):
  # Two signs side by side are one sign: `<<` is much less.
  return re.sub(r'(?<![\\^_{(\[<>])([+=<>])(?![}\d)<>])', r'\\,\1\\;', text)


def display_fractions(text):
  return text.replace('\\frac', '\\dfrac')


def sized_brackets(text):
  is_in_words = re.search(r'\\text\{[^}]*\(', text)
  if '\\left' in text or is_in_words or text.count('(') != text.count(')'):
    return text
  return re.sub(r'(?<!\\)\(', r'\\left(', re.sub(r'(?<!\\)\)', r'\\right)', text))


def dollars(text):
  return f'${text}$'


@pytest.mark.slow
@pytest.mark.parametrize('spelling', [thin_spaces, display_fractions, sized_brackets, dollars])
def test_spelling(spelling):
  changed = 0
  for kind, reference, prediction, _, _, why in PAIRS:
    a, b = spelling(reference), spelling(prediction)
    if (a, b) == (reference, prediction):
      continue
    changed += 1
    want = score(reference, prediction, kind).points
    # One side first, so that the two texts differ in spelling too.
    assert score(a, prediction, kind).points == pytest.approx(want, abs=1e-9), (why, a, prediction)
    assert score(reference, b, kind).points == pytest.approx(want, abs=1e-9), (why, reference, b)
  assert changed > 20


def rename(text):
  return re.sub(r'\\[A-Za-z]+|[A-Za-z]', lambda m: _NEXT.get(m[0], m[0]), text)


def test_consistent_renaming():
  tried = 0
  for kind, reference, prediction, _, _, why in PAIRS:
    words = _PLAIN_TEXT.search(re.sub(r'\\[A-Za-z]+', '', reference + ' ' + prediction))
    if kind == 'Numeric' or words or _WORDS.search(reference + prediction):
      continue
    tried += 1
    want = score(reference, prediction, kind).points
    got = score(rename(reference), rename(prediction), kind).points
    assert got == pytest.approx(want, abs=1e-9), (why, rename(reference), rename(prediction))
  assert tried > 120


def swap(text):
  """The two sides of a relation exchanged."""
  match = re.fullmatch(r'([^=<>]*)([=<>])([^=<>]*)', text)
  return match and match[3] + {'<': '>', '>': '<', '=': '='}[match[2]] + match[1]


def test_swapped_sides():
  tried = 0
  for kind, reference, prediction, _, _, why in PAIRS:
    is_list = ',' in reference + prediction  # a list has no two sides
    has_remark = '\\text' in reference + prediction  # which belongs to the whole
    if kind != 'Equation' or is_list or has_remark or not (swap(reference) and swap(prediction)):
      continue
    tried += 1
    want = score(reference, prediction, kind).points
    for a, b in ((swap(reference), prediction), (reference, swap(prediction)), (swap(reference), swap(prediction))):
      if a.strip() and b.strip() and '' not in re.split('[=<>]', a + b):
        assert score(a, b, kind).points == pytest.approx(want, abs=1e-9), (why, a, b)
  assert tried > 15


def test_prediction_order_of_terms_does_not_matter():
  reference = r'a^2+\frac{b}{c}-2d_0\cos\theta'
  points = {
    score(reference, p, 'Expression').points
    for p in (
      r'a^2+\frac{b}{c}-3d_0\cos\theta',
      r'-3d_0\cos\theta+\frac{b}{c}+a^2',
      r'\frac{b}{c}+a^2-3\cos(\theta) d_0',
    )
  }
  assert len(points) == 1
  assert 0 < points.pop() < 60
