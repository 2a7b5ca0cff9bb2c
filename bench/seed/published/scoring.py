r"""The published scorer's way, for comparison: CMPhysBench's public code of November 2025, faults included.

Text is rewritten by rules, parsed by latex2sympy2_extended (the extra `compat`), simplified by sympy with
positive symbols, and scored by our edit distance on sympy's own argument order. The published limits of 10
and 30 seconds a step are not kept; score in a pool to bound a pair. Written from a description of the rules.
"""

import re
from collections.abc import Callable

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig

from bench.seed import tree
from bench.seed.nodes import Budget, Node, number
from bench.seed.pairs import STEPS
from bench.seed.published import numeric as compat_numeric
from bench.seed.result import Mark, Settings, mean

_NORMALIZATION = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=False, boxed='all')
_CONVERSION = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
_RELATIONS = ('\\approx', '\\ge', '\\le', '\\geq', '\\leq', '=')
_FONTS = '(?:text|mathbf|mathrm|mathscr|mathcal|mathfrak|pmb|hat|overline|boldsymbol|mathbb)'
# The second stage of rewriting, in order. A braced word without inner braces is [^{}]*.
_REWRITES: tuple[tuple[str, str], ...] = (
  (r'\^(\{[^{}]*\}|\w)_(\{[^{}]*\}|\w)', r'_\2^\1'),
  (r"([A-Za-z]|\})'", r'\1^{prime}'),
  (r'·|\\cdotp', ''),
  (r'\\operatorname\{Im\}', 'Im'),
  (r'\\langle|\\rangle', ''),
  (r'\\bar(?![a-z])', ''),
  (r'h\.c\.', 'hc'),
  (r'\^\{\*2\}', '^{star2}'),
  (r'\^\{?\*\}?', '^{star}'),
  (r'\^([+-])(?!\d)', r'^{\1}'),
  (r'\^\{\s*\}', '^{prime}'),
  (r'_([A-Za-z0-9])', r'_{\1}'),
  (r'\\text\{[^{}]*\}', '1'),
  (r'\\ddot\{?(\w)\}?', r'\1_{ddot}'),
  (r'\\dot\{?(\w)\}?', r'\1_{dot}'),
  (r'\\' + _FONTS + r'\{([^{}]*)\}', r'\1'),
  (r'\\' + _FONTS + r'(?![a-z])', ''),
  (r'\\(?:,|;|:|!)|\$|,|`|\\left|\\right|\\[bB]igg?[lr]?|\\displaystyle|\n|\\\[|\\\]|\\infty', ''),
  (r'\\[dt]frac', r'\\frac'),
  (r'\\gg', '>'),
  (r'\\ll(?![a-z])', '<'),
  (r'\\times', r'timesop '),
  (r'\\dagger', 'dagger'),
  (r'\\partial', r'partialop '),
  (r'\\perp', 'perp'),
  (r'\\parallel', 'parallel'),
  # A subscripted E loses its label and its power.
  (r'(?<![A-Za-z\\])([eE])_(?:\{[^{}]*\}|\w)(?:\^(?:\{[^{}]*\}|\w))?', r'\\Xi_{\1}'),
  (r'\\frac\{d(\\?\w+)\}\{d(\\?\w+)\}', r'\\frac{\1}{\2}'),
  (r'\\epsilon', r'\\varepsilon'),
  (r'\\varOmega', r'\\Omega'),
  (r'\\pm', '+'),
  (r'\\mp', '-'),
  (r'\{\+\}', '{p}'),
  (r'\{-\}', '{m}'),
  (r'\.\s*$', ''),
  (r'\\varkappa', r'\\kappa'),
  (r'\\frac\s*(\d)\s*(\d)', r'\\frac{\1}{\2}'),
  (r'\}(?=[A-Za-z0-9])', r'}\\cdot '),
)
_OPERATORS = {'timesop': r'\\xi_{times}', 'partialop': r'\\xi_{partial}'}


def mark(reference: str, prediction: str, kind: str, settings: Settings) -> Mark:
  """The mark of one pair as the published code gives it. Needs the extra `compat`."""
  if any(sign in text for sign in ('\\int', '\\sum') for text in (reference, prediction)):
    return Mark(0.0, 'text')
  if reference == prediction:
    return Mark(100.0, 'text')
  return _KINDS[kind](reference, prediction, settings)


def _expression(reference: str, prediction: str, _: Settings) -> Mark:
  return _compare(*(_parse(_right_side(_first_stage(t))) for t in (reference, prediction)))


def _equation(reference: str, prediction: str, _: Settings) -> Mark:
  sides = [_difference(_parse(_first_stage(t))) for t in (reference, prediction)]
  if None not in sides and sum(sides) == 0:
    return Mark(100.0, 'structure')
  return _compare(*sides)


def _difference(parsed):
  if parsed is not None and len(parsed.args) > 1:
    return parsed.args[0] - parsed.args[1]
  return None


def _tuple(reference: str, prediction: str, settings: Settings) -> Mark:
  entries = [_entries(t) for t in (reference, prediction)]
  if None in entries or len(entries[0]) != len(entries[1]):
    return Mark(0.0, 'structure')
  marks = []
  for a, b in zip(*entries):
    mark = Mark(100.0, 'text')
    if a != b:
      mark = _expression(a, b, settings)
    marks.append(mark)
  return mean(marks)


def _entries(text: str) -> list[str] | None:
  """Entries cut at every comma, nested or not; None without round brackets."""
  text = re.sub(r'\\left|\\right|\$', '', text).strip()
  if re.fullmatch(r'\(.*\)\s*=\s*\(.*\)', text):
    text = text.rpartition('=')[2].strip()
  if text[:1] in '([' and text[-1:] in ')]' and text:
    return text[1:-1].split(',')
  return None


def _interval(reference: str, prediction: str, settings: Settings) -> Mark:
  """Bounds glued to marker symbols and joined by a plus sign, without the brackets they would need."""
  texts = [_joined(t) for t in (reference, prediction)]
  if None in texts:
    return Mark(0.0, status='parse_error')
  return _expression(*texts, settings)


def _joined(text: str) -> str | None:
  match = re.fullmatch(r'([(\[])([^,]*),(.*)([)\]])', re.sub(r'\\left|\\right|\$', '', text).strip())
  if not match:
    return None
  opening, low, high, close = match.groups()
  return f'{"l" if opening == "[" else "o"}{low}+{high}{"r" if close == "]" else "c"}'


def _numeric(reference: str, prediction: str, settings: Settings) -> Mark:
  parse: Callable = lambda t: _parse(_right_side(_first_stage(t)))
  return compat_numeric.numeric(reference, prediction, parse, settings)


_KINDS = {'Expression': _expression, 'Equation': _equation, 'Tuple': _tuple, 'Interval': _interval, 'Numeric': _numeric}


def _first_stage(text: str) -> str:
  text = text.replace('~', '').replace('\\{', '(').replace('\\}', ')').replace('\\approx', '=')
  if any(text.count(a) != text.count(b) for a, b in ('()', '[]', '{}')):
    return text
  return re.split(r'\\q?quad', text)[0].rstrip('\\ ')


def _right_side(text: str) -> str:
  """After the last relation sign, cut one character behind its start, as published."""
  for sign in _RELATIONS:
    *_, last = (None, *re.finditer(re.escape(sign) + '(?![a-z])', text))
    text = text[last.start() + 1 :] if last else text
  return text


def _parse(text: str):
  """A sympy object, or None where the text is not parsed."""
  for pattern, replacement in _REWRITES:
    text = re.sub(pattern, replacement, text)
  for word, symbol in _OPERATORS.items():
    text = re.sub(word, symbol, text)
  try:
    return latex2sympy(text, normalization_config=_NORMALIZATION, conversion_config=_CONVERSION)
  except Exception:  # the published code treats any parser error as an unparsed side
    return None


def _compare(a, b) -> Mark:
  if a is None or b is None:
    return Mark(0.0, status='parse_error')
  try:
    a = _simplified(a)
    b = _simplified(b)
    if _equal(a, b):
      return Mark(100.0, 'symbolic')
    flat = tree.Flat(_tree(a))
    other = tree.Flat(_tree(b))
    return Mark(tree.tree_points(tree.distance(other, flat, Budget(STEPS)), len(flat.labels)), 'distance')
  except Exception:  # published: any exception in an item is a zero
    return Mark(0.0, status='unsupported')


def _simplified(parsed):
  positive = {s: sympy.Symbol(s.name, positive=True) for s in parsed.free_symbols}
  back = {p: s for s, p in positive.items()}
  return sympy.simplify(parsed.subs(positive)).subs(back)


def _equal(a, b) -> bool:
  if a == b:
    return True
  if isinstance(a, sympy.MatrixBase) or isinstance(b, sympy.MatrixBase):
    return False
  if isinstance(a, sympy.core.relational.Relational) or isinstance(b, sympy.core.relational.Relational):
    return False
  return sympy.simplify(sympy.expand(a - b)) == 0 or bool(a.equals(b))


def _tree(parsed) -> Node:
  """The labelled tree of a sympy object; Limit, Sum, sets and logic have none."""
  if parsed.is_Number or isinstance(parsed, sympy.NumberSymbol) or parsed == sympy.I:
    if parsed.is_Integer:
      return number(parsed.p)
    return Node('number', (), str(parsed))
  if isinstance(parsed, sympy.Symbol):
    return Node('symbol', (), parsed.name)
  if isinstance(parsed, sympy.MatrixBase):
    return Node('matrix', tuple(map(_tree, parsed)), parsed.shape)
  if isinstance(parsed, sympy.Add | sympy.Mul | sympy.Pow | sympy.Function | sympy.core.relational.Relational):
    return Node(type(parsed).__name__.lower(), tuple(map(_tree, parsed.args)))
  raise TypeError(f'no tree for {type(parsed).__name__}')
