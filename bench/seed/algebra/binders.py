"""Bound variables: names of summation indices and integration variables do not matter; constants are factored out."""

import functools

from bench.seed.nodes import ONE, Name, Node, rewrite, symbol, walk

_BOUND = '□'  # base of the name of a bound variable; its subscript is the nesting level
_FREE = ('·', 'region')
_LINEAR_OPERATORS = ('derivative', 'nabla', 'laplacian', 'div', 'curl')
_CONSTANTS = ('number', 'pi', 'e', 'i')
_OPAQUE = ('call', 'ket', 'bra', 'mean', 'derivative', 'at')  # may depend on a variable that they do not show


def bind(node: Node) -> Node:
  """A sum, product, limit or definite integral with its variables renamed by nesting level.

  An index in a subscript is renamed too. `node.args` is (body, lower, upper, variable, …).
  """
  body, lower, upper, *variables = node.args
  nothing = Node('symbol', (), Name('·'))
  if node.head == 'integral' and lower == upper == nothing:
    return node
  level = _depth(body)
  renamed = []
  for variable in variables:
    if _can_rename(variable):
      level += 1
      fresh = Name(_BOUND, (str(level),))
      rename = functools.partial(_rename, old=variable.value, new=fresh)
      body = rewrite(body, rename)
      variable = Node('symbol', (), fresh)
    renamed.append(variable)
  return node._replace(args=(body, lower, upper, *renamed))


def _depth(body: Node) -> int:
  """The deepest level of the variables that are bound in an expression; 0 if none is."""
  names = [n.value for n in walk(body) if n.head == 'symbol']
  levels = [int(name.sub[0]) for name in names if name.base == _BOUND]
  return max(levels, default=0)


def _can_rename(variable: Node) -> bool:
  """Whether a variable is a symbol that is neither free nor renamed already."""
  if variable.head != 'symbol':
    return False
  return variable.value.base not in (*_FREE, _BOUND)


def _rename(node: Node, old: Name, new: Name) -> Node:
  if node.head != 'symbol':
    return node
  name = node.value
  if name == old:
    return node._replace(value=new)
  if old.sub or old.base not in name.sub:
    return node
  index = _BOUND + new.sub[0]
  sub = tuple(index if part == old.base else part for part in name.sub)
  return node._replace(value=name._replace(sub=sub))


def pull_out(node: Node) -> tuple[Node, Node]:
  """(the constant factors of a linear operation's operand, the operation on the other factors)."""
  if node.head not in ('sum', 'integral', 'limit', *_LINEAR_OPERATORS):
    return ONE, node
  body, *others = node.args
  factors = (body,)
  if body.head == 'mul':
    factors = body.args
  constants = []
  rest = []
  for factor in factors:
    target = constants if _constant(factor, node) else rest
    target.append(factor)
  if not constants:
    return ONE, node
  if not rest and node.head == 'derivative':
    return ONE, node
  operation = node._replace(args=(_product(rest), *others))
  return _product(constants), operation


def _product(factors: list[Node]) -> Node:
  if not factors:
    return ONE
  if len(factors) == 1:
    return factors[0]
  return Node('mul', tuple(factors))


def _constant(factor: Node, node: Node) -> bool:
  """Whether a factor is constant: a number under a derivative, anything without the variables under a sum."""
  leaves = [n for n in walk(factor) if not n.args]
  if node.head in _LINEAR_OPERATORS:
    hbar = symbol('\\hbar')
    return all(n.head in _CONSTANTS or n == hbar for n in leaves)
  variables = node.args[3:]
  if not variables or any(map(_is_free, variables)):
    return all(n.head in _CONSTANTS for n in leaves)
  if any(n.head in _OPAQUE for n in walk(factor)):
    return False
  names = {v.value for v in variables}
  indices = {_BOUND + name.sub[0] for name in names if name.base == _BOUND}
  used = [n.value for n in leaves if n.head == 'symbol']
  return not any(name in names or indices & set(name.sub) for name in used)


def _is_free(variable: Node) -> bool:
  """Whether a variable of a sum or an integral names no symbol to look for."""
  return variable.head != 'symbol' or variable.value.base in _FREE
