"""Reads and checks fields of a request's JSON; a refusal is a ValueError that names the field and its value."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

MAX_SEED = 2**31 - 1


def present(body: Any, known: Collection[str]) -> dict[str, Any]:
  """The fields that are not null. Raises ValueError if the body is not an object or has a field that is not `known`."""
  if not isinstance(body, Mapping):
    raise ValueError(f'a request of type {type(body).__name__}; expected a JSON object')
  given = {name: value for name, value in body.items() if value is not None}
  unknown = given.keys() - set(known)
  if unknown:
    first = min(unknown)
    expected = ', '.join(sorted(known))
    raise ValueError(f'{first:.60}: unknown field; expected some of {expected}')
  return given


def fixed(body: Mapping[str, Any], values: Mapping[str, Any]) -> None:
  """Raises ValueError for a field with another value than the one served."""
  for name, value in values.items():
    given = body.get(name, value)
    # JSON has booleans apart from numbers, but in Python 1 == True.
    same_kind = isinstance(given, bool) is isinstance(value, bool)
    if not same_kind or given != value:
      raise ValueError(f'{name}={short(given)}: this server has {name}={value!r} only')


def _refused(name: str, given: Any, expected: str) -> ValueError:
  return ValueError(f'{name}={short(given)}: expected {expected}')


def choice(body: Mapping[str, Any], name: str, choices: Sequence[str]) -> str:
  """One of some texts; the first by default."""
  given = body.get(name, choices[0])
  if given not in choices:
    raise _refused(name, given, ' or '.join(choices))
  return given


def flag(body: Mapping[str, Any], name: str, default: bool = False) -> bool:
  """true or false."""
  given = body.get(name, default)
  if not isinstance(given, bool):
    raise _refused(name, given, 'true or false')
  return given


def number(body: Mapping[str, Any], name: str, default: float, *, low: float, high: float) -> float:
  """A finite number in a range."""
  given = body.get(name, default)
  if not _is_number(given, int | float) or not math.isfinite(given) or not low <= given <= high:
    raise _refused(name, given, f'a number from {low} to {high}')
  return float(given)


def whole(body: Mapping[str, Any], name: str, default: Any, *, low: int = 0, high: int) -> Any:
  """A whole number in a range, or the default."""
  if name not in body:
    return default
  given = body[name]
  if not _is_number(given, int) or not low <= given <= high:
    raise _refused(name, given, f'a whole number from {low} to {high}')
  return given


def _is_number(value: Any, kinds: Any) -> bool:
  """Whether a value of JSON is a number of these kinds: in Python true and false are numbers too."""
  return isinstance(value, kinds) and not isinstance(value, bool)


def short(value: Any) -> str:
  """A value as an error message shows it, in at most 60 characters."""
  text = repr(value)
  if len(text) <= 60:
    return text
  return text[:57] + '...'
