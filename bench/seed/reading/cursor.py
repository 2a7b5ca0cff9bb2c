"""A cursor over tokens: looking ahead, scripts, braced groups."""

from bench.seed.nodes import ParseError, TooLarge
from bench.seed.reading.tokens import MAX_NESTING, Token, label, sign

MAX_TOKENS = 8_000
END = Token('end', '')


class Cursor:
  """A place in a list of tokens, and how deeply it is nested."""

  def __init__(self, tokens: list[Token]):
    if len(tokens) > MAX_TOKENS:
      raise TooLarge(f'{len(tokens)} tokens, at most {MAX_TOKENS} are read')
    self.tokens = tokens
    self.at = 0
    self.level = 0

  def peek(self, ahead: int = 0) -> Token:
    k = self.at + ahead
    if k < len(self.tokens):
      return self.tokens[k]
    return END

  def next(self) -> Token:
    token = self.peek()
    self.at += 1
    return token

  def ahead(self, *signs: str) -> bool:
    return sign(self.peek()) in signs

  def accept(self, *signs: str) -> bool:
    if self.ahead(*signs):
      self.at += 1
      return True
    return False

  def expect(self, *signs: str) -> None:
    if not self.accept(*signs):
      raise ParseError(f'{signs[0]!r} expected, {self.peek().text!r} found')

  def deeper(self, levels: int) -> None:
    self.level += levels
    if self.level > MAX_NESTING:
      raise TooLarge(f'nested more than {MAX_NESTING} levels')

  def script(self) -> list[Token]:
    """The tokens of a sub- or superscript: a braced group or one token (a command with its argument)."""
    if self.ahead('{'):
      start = self.at
      self.skip_group()
      return self.tokens[start + 1 : self.at - 1]
    if self.peek() is END or self.peek().kind in ')}]&':
      raise ParseError('an empty script')
    start = self.at
    token = self.next()
    if token.kind == '-' and self.peek().kind == 'number':
      self.next()
    if token.kind == 'command':
      while self.ahead('{'):
        self.skip_group()
      if self.at == start + 1 and token.text in ('vec', 'hat', 'bar', 'tilde', 'mathcal', 'mathbb'):
        self.next()
    return self.tokens[start : self.at]

  def skip_group(self) -> None:
    """Skips the braced group that starts here."""
    level = 0
    while True:
      token = self.next()
      if token is END:
        raise ParseError('a brace is not closed')
      level += (token.kind == '{') - (token.kind == '}')
      if level == 0:
        return

  def piece(self) -> list[Token]:
    """The tokens of a command's argument: a braced group, or one digit, letter or command."""
    token = self.peek()
    if token.kind == 'number' and len(token.text) > 1 and token.text.isdigit():
      rest = Token('number', token.text[1:])
      self.tokens = [*self.tokens[: self.at], rest, *self.tokens[self.at + 1 :]]
      return [Token('number', token.text[0])]
    return self.script()

  def label(self) -> tuple[str, ...]:
    """A script as a label, without fonts, braces and spaces."""
    return label(self.script())
