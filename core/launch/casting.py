"""Text from a command line as the type that a field's annotation names."""

import ast
import contextlib
import types
import typing
from typing import Any, Literal


def spell(kind) -> str:
  """An annotation as a reader would write it."""
  if kind is type(None):
    return 'none'
  if typing.get_origin(kind) is Literal:
    return '|'.join(map(str, typing.get_args(kind)))
  if is_union(kind):
    return '|'.join(spell(k) for k in typing.get_args(kind))
  if typing.get_origin(kind) is tuple:
    items = ['...' if k is ... else spell(k) for k in typing.get_args(kind)]
    return f'tuple[{", ".join(items)}]'
  return getattr(kind, '__name__', str(kind))


def is_union(kind) -> bool:
  """Whether an annotation is `A | B` or Optional[A]."""
  return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def cast(value, kind) -> Any:
  """`value`, a text or a parsed item of a tuple, as `kind`. Raises ValueError if it is none."""
  if is_union(kind):
    return _one_of(value, kind)
  if typing.get_origin(kind) is Literal:
    return _literal(value, kind)
  if typing.get_origin(kind) is tuple or kind is tuple:
    return _tuple(value, typing.get_args(kind))
  if kind is type(None) and (value is None or str(value).lower() == 'none'):
    return None
  if kind is bool and str(value).lower() in ('true', 'false', '1', '0'):
    return str(value).lower() in ('true', '1')
  if kind is str and isinstance(value, str):
    return value
  if kind in (int, float) and not isinstance(value, bool):
    return _number(value, kind)
  raise _wrong(value, kind)


def _wrong(value, kind) -> ValueError:
  return ValueError(f'{value!r} is not {spell(kind)}')


def _one_of(value, kind):
  # A text field takes any text, so narrower kinds are tried first.
  for option in sorted(typing.get_args(kind), key=lambda k: k is str):
    with contextlib.suppress(ValueError):
      return cast(value, option)
  raise _wrong(value, kind)


def _literal(value, kind):
  for option in typing.get_args(kind):
    if value == option or value == str(option):
      return option
  raise _wrong(value, kind)


def _number(value, kind):
  number = value
  if isinstance(value, str):
    try:
      number = kind(value)
    except ValueError:  # Python's message is less clear than ours
      raise _wrong(value, kind) from None
  if not isinstance(number, (int, float)) or (kind is int and not isinstance(number, int)):
    raise _wrong(value, kind)
  return kind(number)


def _tuple(value, kinds):
  """`(1, 2)`, `1,2` or one item, as a tuple whose items have `kinds`."""
  items = _items(value)
  if not kinds:
    return items
  if kinds[-1] is ...:
    kinds = (kinds[0],) * len(items)
  if len(kinds) != len(items):
    raise ValueError(f'{items!r} has {len(items)} items: expected {len(kinds)}')
  return tuple(cast(item, kind) for item, kind in zip(items, kinds))


def _items(value) -> tuple:
  if isinstance(value, str):
    try:
      value = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
      words = [item.strip() for item in value.strip('()[]').split(',')]
      value = tuple(word for word in words if word)
  if isinstance(value, (tuple, list)):
    return tuple(value)
  return (value,)
