"""A call to a tool service and its result, as JSON in both directions."""

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any, TypedDict

from agents.sandbox import Limits, Result


class Options(TypedDict, total=False):
  """The options of a call; `Dispatcher.run` says what each means."""

  stdin: str | bytes
  files: Mapping[str, str | bytes] | None
  limits: Limits | None
  keep: bool
  wait: bool


FIELDS = {'trajectory', 'code', *Options.__annotations__}


def write_call(trajectory: str, code: str, options: Options) -> dict:
  """A call as JSON; bytes become {"base64": …}. Raises TypeError for an unknown option."""
  unknown = sorted(options.keys() - FIELDS)
  if unknown:
    expected = ', '.join(Options.__annotations__)
    raise TypeError(f'{", ".join(unknown)}: expected some of {expected}')
  limits = options.get('limits')
  files = options.get('files') or {}
  call = {'trajectory': trajectory, 'code': code, 'keep': False, 'wait': True} | options
  call['stdin'] = _write_content(options.get('stdin', ''))
  call['files'] = {name: _write_content(content) for name, content in files.items()}
  call['limits'] = dataclasses.asdict(limits) if limits else None
  return call


def read_call(body: object, most: Limits) -> tuple[str, Any, Options]:
  """(trajectory, code, options) of a call as JSON, its limits at most `most`. Raises ValueError for a malformed one.

  The code may be of any type: the pool refuses code that is not text.
  """
  if not _is_call(body):
    raise ValueError(f'expected an object with "trajectory", "code" and perhaps others of {sorted(FIELDS)}')
  files = body.get('files', {})
  if not isinstance(files, dict):
    raise ValueError('"files": expected an object')
  options = Options(
    stdin=_read_content(body.get('stdin', '')),
    files={name: _read_content(value) for name, value in files.items()},
    limits=lowered(most, body.get('limits')),
    keep=bool(body.get('keep', False)),
    wait=bool(body.get('wait', True)),
  )
  return body['trajectory'], body.get('code'), options


def _is_call(body: object) -> bool:
  """Whether a body is an object with a trajectory and no unknown fields."""
  if not isinstance(body, dict) or not body.keys() <= FIELDS:
    return False
  return isinstance(body.get('trajectory'), str)


def lowered(limits: Limits, asked: object) -> Limits:
  """The limits with those asked for, each only where it is lower. Raises ValueError for an unknown name or value."""
  if asked is None:
    return limits
  most = dataclasses.asdict(limits)
  if not isinstance(asked, dict) or not asked.keys() <= most.keys():
    raise ValueError(f'"limits": {asked!r}, expected an object with some of {sorted(most)}')
  replaced = dataclasses.replace(limits, **asked)  # which checks the values
  wanted = dataclasses.asdict(replaced)
  lower = {name: min(value, most[name]) for name, value in wanted.items()}
  return Limits(**lower)


def write_result(result: Result) -> dict:
  """A result as JSON."""
  return dataclasses.asdict(result)


def read_result(told: Mapping[str, Any]) -> Result:
  """The result that `write_result` wrote."""
  fields = dict(told)
  fields['omitted'] = tuple(told['omitted'])
  fields['left'] = tuple(told.get('left', ()))
  return Result(**fields)


def _write_content(content: str | bytes) -> str | dict:
  if isinstance(content, bytes):
    return {'base64': base64.b64encode(content).decode()}
  return content


def _read_content(value: object) -> str | bytes:
  if isinstance(value, str):
    return value
  if isinstance(value, dict) and value.keys() == {'base64'}:
    encoded = value['base64']
    if isinstance(encoded, str):
      return base64.b64decode(encoded, validate=True)
  raise ValueError(f'expected a string or {{"base64": …}}, not {type(value).__name__}')
