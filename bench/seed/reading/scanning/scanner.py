r"""LaTeX text to tokens: spaces and sizes dropped, aliases resolved, text commands kept whole."""

import re

from bench.seed.nodes import ParseError, TooLarge
from bench.seed.reading.atoms.unit_names import in_signs
from bench.seed.reading.scanning.annotations import ANNOTATIONS, annotated
from bench.seed.reading.scanning.chemistry import plain_formula
from bench.seed.reading.scanning.macros import MACROS, expand
from bench.seed.reading.scanning.spelling import (
  ALIASES,
  DROPPED,
  LEFT,
  PLAIN_FUNCTIONS,
  RIGHT,
  ROMAN,
  SKIP_ARGUMENT,
  SPACES,
  SUBSCRIPTS,
  SUPERSCRIPTS,
  TEXT,
  UNICODE,
  WRAPPERS,
  words_as_text,
)
from bench.seed.reading.tokens import MAX_CHARACTERS, MAX_DIGITS, MAX_NESTING, Token
from bench.seed.reading.units import in_one_piece, is_unit_text, unit_before_words

_ABBREVIATION = 4  # capitals in a row that are one name, such as SRAC


_NOTE = re.compile(r'\s*[_^]')
_NUMBER = re.compile(r'\d+(?:\.\d+|\.(?=\s*[/*)]))?|\.\d+')
_EXPONENT = re.compile(r'[eE]([+-]?\d+)(?!\d|\.\d)')
_GROUPS = re.compile(r'[1-9]\d{0,2}(?:(?:\{,\}\\!|\{,\}|,\\!|,|\\,|\\;|\\ |~| )\d{3})+(?![\d])')
_SURE_GROUPS = re.compile(r'[1-9]\d{0,2}(?:(?:\{,\}(?:\\!)?|,\\!|\\[,;: ]|~| )\d{3})+(?!\d)')  # no bare comma
_MODULUS = re.compile(r'\(\s*(?:\\b?mod\b|\\(?:text|mathrm|operatorname)\s*\{\s*mod\s*\})(?:\\[,;: ]|[\s~])*([^()]*)\)')
_ANGSTROM = re.compile(r'\\overset\s*\{\s*\\circ\s*\}\s*\{(?:\\(?:text|mathrm)\s*\{A\}|A)\}')
_VERDICT = re.compile(r'(?:\\[,;! ]|[\s$~])*(Yes|No|True|False)[\s$]*(?:[.,:;]|$)')
_SLASHED = re.compile(r'[A-Za-z]+\s*/\s*[A-Za-z]+')
_COMMAND = re.compile(r'\\(?:[A-Za-z]+\*?|.)', re.DOTALL)
_TEN = re.compile(r'[xX]\s*\{?10(?!\d)')
_EXPONENT_AFTER = re.compile(r'\s*\^\s*(?:\{[^{}\\]{1,12}\}|\d)')
_MONEY = re.compile(r'\s*\.?\d')
_INLINE = re.compile(r'\\[()]')  # around a formula in a text
_MATHS = re.compile(
  r'\\\(|(?<!\\)\$.*(?<!\\)\$|\\(?:frac|dfrac|tfrac|sqrt|mathcal|mathbf|vec|hat)(?![A-Za-z])', re.DOTALL
)
_LETTERS = re.compile(r'[A-Za-z]+')
_ARGUMENT = re.compile(r'\s*\{')
_OPTIONAL = re.compile(r'\s*\[[^\[\]]*\]')


def tokenize(text: str, *, units: bool = False) -> list[Token]:
  r"""Tokens of a LaTeX text. `units`: bare letters are joined to runs, and digit groups and 1e5 are numbers.

  Raises TooLarge (text or a number too long) and ParseError (a character that no formula holds).
  """
  if len(text) > MAX_CHARACTERS:
    raise TooLarge(f'{len(text)} characters, at most {MAX_CHARACTERS} are read')
  text = in_one_piece(text) if units else words_as_text(text)
  return _Scanner(_plain(text), units).scan()


def closing(text: str, start: int) -> int:
  """Index of the brace that closes the one before `start`; ParseError if there is none."""
  level = 1
  for match in re.finditer(r'\\.|[{}]', text[start:], re.DOTALL):
    level += {'{': 1, '}': -1}.get(match[0], 0)
    if not level:
      return start + match.start()
  raise ParseError('a brace is not closed')


def _plain(text: str) -> str:
  if not text.isascii():
    text = ''.join(UNICODE.get(c, c) for c in text)
  if not text.isascii():
    text = _scripted(_scripted(text, '^', SUPERSCRIPTS), '_', SUBSCRIPTS)
  if _VERDICT.match(text):
    text = _VERDICT.sub(r'\\text{\1}, ', text, count=1)
  text = _MODULUS.sub(r'\\bmod {\1}', text)
  return re.sub(r'\s', ' ', _ANGSTROM.sub(r'\\AA ', text))


def _scripted(text: str, mark: str, digits: dict[str, str]) -> str:
  runs = re.compile(f'[{"".join(digits)}]+')
  return runs.sub(lambda m: f'{mark}{{{"".join(map(digits.get, m[0]))}}}', text)


class _Scanner:
  def __init__(self, text: str, units: bool, roman: bool = False, level: int = 0):
    self.text = text
    self.units = units
    self.roman = roman
    self.level = level
    self.at = 0
    self.out = []

  def scan(self) -> list[Token]:
    while self.at < len(self.text):
      c = self.text[self.at]
      if c in ' ~$`':
        self.at += 1
      elif (c.isdigit() and c.isascii()) or (c == '.' and self.text[self.at + 1 : self.at + 2].isdecimal()):
        self._number()
      elif c.isascii() and c.isalpha():
        self._letters()
      elif c == '\\':
        self._command()
      elif self.text[self.at : self.at + 2] in ('<<', '>>'):
        self._emit('command', 'll' if c == '<' else 'gg')
        self.at += 2
      elif c in '{}()[]|+-*/=<>!,;:.^_\'&%"':
        self._emit(c, c)
        self.at += 1
      elif c == '@':  # a price or a rate with its amount is a list of both
        self._emit(',', ',')
        self.at += 1
      else:
        raise ParseError(f'unexpected character {c!a}')
    return self.out

  def _emit(self, kind, text):
    self.out.append(Token(kind, text))

  def _number(self):
    groups = _GROUPS if self.units else _SURE_GROUPS
    grouped = groups.match(self.text, self.at)
    is_script = bool(self.out) and self.out[-1].kind in '^_'  # of one digit: 3^2 100 is no power of 2100
    if is_script:
      grouped = None
    if grouped:
      whole = re.sub(r'\D', '', grouped[0])
      tail = re.compile(r'\.\d+').match(self.text, grouped.end())
      digits = whole + (tail[0] if tail else '')
      self.at = (tail or grouped).end()
    else:
      match = _NUMBER.match(self.text, self.at)
      digits = match[0].rstrip('.')
      self.at = match.end()
    if len(digits) > MAX_DIGITS:
      raise TooLarge(f'a number of {len(digits)} digits, at most {MAX_DIGITS} are read')
    exponent = _EXPONENT.match(self.text, self.at)
    # Outside unit mode 2e-3 may be twice a charge less three: only a decimal mantissa is scientific notation.
    if exponent and (self.units or '.' in digits):
      if len(exponent[1]) > MAX_DIGITS:
        raise TooLarge('an exponent of too many digits')
      digits = digits + 'e' + exponent[1]
      self.at = exponent.end()
    self._emit('number', digits)

  def _letters(self):
    run = _LETTERS.match(self.text, self.at)[0]
    if run in PLAIN_FUNCTIONS:
      self._emit('command', run)
    elif self.units and run in 'xX' and self.out and _TEN.match(self.text, self.at):
      self._emit('command', 'times')
    elif self.roman:
      self._emit('word' if len(run) > 1 or self.units else 'letter', run)
    elif self.units:
      self._emit('run', run)
    elif len(run) >= _ABBREVIATION and run.isupper():
      self._emit('letter', run)
    else:
      for letter in run:
        self._emit('letter', letter)
    self.at += len(run)

  def _command(self):
    match = _COMMAND.match(self.text, self.at)
    if match is None:
      raise ParseError('a backslash ends the text')
    name = match[0][1:].rstrip('*') or '*'
    self.at = match.end()
    if match[0] in SPACES:
      return
    if name in LEFT or name in RIGHT:
      self._fence(name)
    elif name in MACROS:
      self._replace(expand(name, self._argument, lambda: bool(_ARGUMENT.match(self.text, self.at))))
    elif name in ANNOTATIONS:
      self._replace(annotated(name, self._argument, self._optional))
    elif name == 'ce':
      self._replace(plain_formula(self._argument()))
    elif name == '$' and _MONEY.match(self.text, self.at):
      return
    elif name in ('begin', 'end'):
      self._emit(name, self._argument().strip('* '))
    elif name in TEXT:
      self._text(self._argument())
    elif name in ROMAN:
      self._group(self._argument(), roman=True)
    elif name in WRAPPERS:
      self._group(self._argument(), self.roman)
      if name.endswith('brace') and (note := _NOTE.match(self.text, self.at)):
        self.at = note.end()
        self._argument()
    elif name == 'not' and self.text[self.at :].lstrip().startswith('='):
      self.at = self.text.index('=', self.at) + 1
      self._emit('command', 'neq')
    elif name in SKIP_ARGUMENT:
      self._argument()
    elif name in ('quad', 'qquad'):
      self._emit('quad', name)
    elif name not in DROPPED:
      name = ALIASES.get(name, name)
      if name == 'i':
        self._emit('letter', 'i')
      elif name.isalpha():
        self._emit('command', name)
      else:
        sign = {'\\{': '\\{', '{': '\\{', '\\}': '\\}', '}': '\\}', '|': '|', '%': '%', '\\|': '|', '\\': 'row'}
        self._emit(sign.get(name, name), name)

  def _replace(self, plain):
    """Reads on with `plain` in place of what has been read."""
    self.text = plain + self.text[self.at :]
    self.at = 0

  def _optional(self):
    """Skips an argument in square brackets."""
    found = _OPTIONAL.match(self.text, self.at)
    if found:
      self.at = found.end()

  def _fence(self, name):
    """After left and right: a dot is nothing, a bar is an opening or a closing one."""
    rest = self.text[self.at :].lstrip(' ')
    self.at = len(self.text) - len(rest)
    bar = next((b for b in ('|', '\\vert', '\\lvert', '\\rvert', '\\|') if rest.startswith(b)), None)
    if rest.startswith('.'):
      self.at += 1
    elif bar:
      self._emit('open|' if name in LEFT else 'close|', '|')
      self.at += len(bar)

  def _argument(self) -> str:
    """The braced argument (or the single character) that follows, as text."""
    brace = _ARGUMENT.match(self.text, self.at)
    if not brace:
      rest = self.text[self.at :].lstrip(' ')
      command = _COMMAND.match(rest)
      content = command[0] if command else rest[:1]
      self.at = len(self.text) - len(rest) + len(content)
      return content
    end = closing(self.text, brace.end())
    content = self.text[brace.end() : end]
    self.at = end + 1
    return content

  def _text(self, content):
    word = content.strip(' ~')
    if self.units:
      word = self._unit_first(word)
    if re.fullmatch(r'[A-Za-z]+', word):
      self._emit('word' if len(word) > 1 or self.units else 'letter', word)
    elif re.fullmatch(r'[-+]?\d[\d.]*', word):
      self._group(word, roman=False)
    elif _SLASHED.fullmatch(word) or (self.units and is_unit_text(word)):
      self._group(word, roman=True)
    elif _MATHS.search(content) and self.level < MAX_NESTING:
      formula = words_as_text(_INLINE.sub('$', content))
      self.out += _Scanner(formula, self.units, level=self.level + 1).scan()
    else:
      self._emit('text', word.replace('$', ''))

  def _unit_first(self, words):
    """The words of a text that are left to read: a unit in front of others is read here."""
    signs = in_signs(words)
    if is_unit_text(signs):
      return signs
    unit, rest = unit_before_words(signs)
    is_after_number = bool(self.out) and self.out[-1].kind in ('number', '}', ')')
    if not unit or not is_after_number:
      return words
    self._group(unit, roman=True)
    return rest

  def _group(self, content, roman):
    """Part of the text in braces or in another font; braces keep it one group when it is more than a word."""
    if self.level == MAX_NESTING:
      raise TooLarge(f'more than {MAX_NESTING} levels of fonts or boxes')
    exponent = None
    has_several = '/' in content or (self.units and ' ' in content.strip(' ~'))
    if roman and has_several:
      exponent = _EXPONENT_AFTER.match(self.text, self.at)
    if exponent:
      # The power in m/s}^2 or J mol}^{-1} belongs to the last unit, not to the whole group.
      content = content + exponent[0]
      self.at = exponent.end()
    inner = _Scanner(content, self.units, roman, self.level + 1).scan()
    self.out += inner if len(inner) == 1 else [Token('{', '{'), *inner, Token('}', '}')] if inner else []
