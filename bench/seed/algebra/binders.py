"""Bound variables: names of summation indices and integration variables do not matter; constants are factored out."""

import functools

from bench.seed.nodes import ONE, Name, Node, rewrite, symbol, walk

_BOUND = '□'
_FREE = ('·', 'region')
_LINEAR_OPERATORS = ('derivative', 'nabla', 'laplacian', 'div', 'curl')
_CONSTANTS = ('number', 'pi', 'e', 'i')


def bind(node: Node) -> Node:
  """A sum, product, limit or definite integral with its variables renamed by nesting level.

  An index in a subscript is renamed too. `node.args` is (body, lower, upper, variable, …).
  """
  body, lower, upper, *variables = node.args
  if node.head == 'integral' and lower == upper == Node('symbol', (), Name('·')):
    return node
  symbols = [n.value for n in walk(body) if n.head == 'symbol']
  level = max((int(name.sub[0]) for name in symbols if name.base == _BOUND), default=0)
  renamed = []
  for variable in variables:
    if variable.head == 'symbol' and variable.value.base not in (*_FREE, _BOUND):
      level += 1
      fresh = Name(_BOUND, (str(level),))
      body = rewrite(body, functools.partial(_rename, old=variable.value, new=fresh))
      variable = Node('symbol', (), fresh)
    renamed.append(variable)
  return node._replace(args=(body, lower, upper, *renamed))


def _rename(node: Node, old: Name, new: Name) -> Node:
  if node.head != 'symbol':
    return node
  if node.value == old:
    return node._replace(value=new)
  if not old.sub and old.base in node.value.sub:
    index = _BOUND + new.sub[0]
    sub = tuple(index if part == old.base else part for part in node.value.sub)
    return node._replace(value=node.value._replace(sub=sub))
  return node


def pull_out(node: Node) -> tuple[Node, Node]:
  """(the constant factors of a linear operation's operand, the operation on the other factors)."""
  if node.head not in ('sum', 'integral', 'limit', *_LINEAR_OPERATORS):
    return ONE, node
  body, *others = node.args
  factors = body.args if body.head == 'mul' else (body,)
  constants = [factor for factor in factors if _constant(factor, node)]
  if not constants or (len(constants) == len(factors) and node.head == 'derivative'):
    return ONE, node
  rest = [factor for factor in factors if not _constant(factor, node)]
  return _product(constants), node._replace(args=(_product(rest), *others))


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
    return all(n.head in _CONSTANTS or n == symbol('\\hbar') for n in leaves)
  variables = node.args[3:]
  if not variables or any(v.head != 'symbol' or v.value.base in _FREE for v in variables):
    return all(n.head in _CONSTANTS for n in leaves)
  if any(n.head in ('call', 'ket', 'bra', 'mean', 'derivative', 'at') for n in walk(factor)):
    return False
  names = {v.value for v in variables}
  indices = {_BOUND + name.sub[0] for name in names if name.base == _BOUND}
  used = [n.value for n in leaves if n.head == 'symbol']
  return not any(name in names or indices & set(name.sub) for name in used)
