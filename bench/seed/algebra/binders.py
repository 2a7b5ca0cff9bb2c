"""Bound variables: the name of a summation index or an integration variable does not matter, constants come
out."""

from bench.seed.nodes import ONE, Name, Node, rewrite, walk

_BOUND = '□'
_FREE = ('·', 'region')


def bind(node: Node) -> Node:
  """A sum, product, limit or definite integral with its variables renamed by nesting level.

  An index in a subscript is renamed too. `node.args` is (body, lower, upper, variable, …).
  """
  body, lower, upper, *variables = node.args
  if node.head == 'integral' and lower == upper == Node('symbol', (), Name('·')):
    return node
  level = max((int(n.value.sub[0]) for n in walk(body) if n.head == 'symbol' and n.value.base == _BOUND), default=0)
  renamed = []
  for variable in variables:
    if variable.head == 'symbol' and variable.value.base not in (*_FREE, _BOUND):
      level += 1
      fresh = Name(_BOUND, (str(level),))
      body = rewrite(body, lambda n, old=variable.value, new=fresh: _rename(n, old, new))
      variable = Node('symbol', (), fresh)
    renamed.append(variable)
  return node._replace(args=(body, lower, upper, *renamed))


def _rename(node: Node, old: Name, new: Name) -> Node:
  if node.head != 'symbol':
    return node
  if node.value == old:
    return node._replace(value=new)
  if not old.sub and old.base in node.value.sub:
    sub = tuple(_BOUND + new.sub[0] if part == old.base else part for part in node.value.sub)
    return node._replace(value=node.value._replace(sub=sub))
  return node


def pull_out(node: Node) -> tuple[Node, Node]:
  """The constant factors in front of a linear operation, and the operation on the rest."""
  if node.head not in ('sum', 'integral', 'limit', 'derivative', 'nabla', 'laplacian', 'div', 'curl'):
    return ONE, node
  body = node.args[0]
  factors = body.args if body.head == 'mul' else (body,)
  out = [f for f in factors if _constant(f, node)]
  if not out or (len(out) == len(factors) and node.head == 'derivative'):
    return ONE, node
  rest = [f for f in factors if not _constant(f, node)]
  inner = Node('mul', tuple(rest)) if len(rest) > 1 else rest[0] if rest else ONE
  return (Node('mul', tuple(out)) if len(out) > 1 else out[0]), node._replace(args=(inner, *node.args[1:]))


def _constant(factor: Node, node: Node) -> bool:
  """Whether a factor may leave: a number for derivatives, anything without the variables for sums."""
  leaves = [n for n in walk(factor) if not n.args]
  if node.head in ('derivative', 'nabla', 'laplacian', 'div', 'curl'):
    return all(
      n.head in ('number', 'pi', 'e', 'i') or (n.head == 'symbol' and n.value == Name('\\hbar')) for n in leaves
    )
  variables = node.args[3:]
  if not variables or any(v.head != 'symbol' or v.value.base in _FREE for v in variables):
    return all(n.head in ('number', 'pi', 'e', 'i') for n in leaves)
  marks = {v.value for v in variables}
  levels = {_BOUND + v.value.sub[0] for v in variables if v.value.base == _BOUND}
  if any(n.head in ('call', 'ket', 'bra', 'mean', 'derivative', 'at') for n in walk(factor)):
    return False
  return not any(n.head == 'symbol' and (n.value in marks or levels & set(n.value.sub)) for n in leaves)
