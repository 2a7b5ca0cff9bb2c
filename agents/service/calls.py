"""A call to a tool service and its result, as JSON in both directions."""

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any, TypedDict

from agents.sandbox import Limits, Result


class Options(TypedDict, total=False):
  """What a call may have besides its trajectory and its code; `Dispatcher.run` says what each means."""

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
    raise TypeError(f'{", ".join(unknown)}: expected some of {", ".join(Options.__annotations__)}')
  limits = options.get('limits')
  files = options.get('files') or {}
  told = {'trajectory': trajectory, 'code': code, 'keep': False, 'wait': True} | options
  told['stdin'] = _write_content(options.get('stdin', ''))
  told['files'] = {name: _write_content(content) for name, content in files.items()}
  told['limits'] = dataclasses.asdict(limits) if limits else None
  return told


def read_call(body: object, most: Limits) -> tuple[str, Any, Options]:
  """(trajectory, code, options) of a call as JSON, its limits at most `most`. Raises ValueError for a malformed one.

  The code may be of any type: the pool refuses what is no text.
  """
  if not isinstance(body, dict) or not isinstance(body.get('trajectory'), str) or not body.keys() <= FIELDS:
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


def lowered(limits: Limits, asked: object) -> Limits:
  """The limits with those asked for, each only where it is lower. Raises ValueError for an unknown name or value."""
  if asked is None:
    return limits
  known = dataclasses.asdict(limits)
  if not isinstance(asked, dict) or not asked.keys() <= known.keys():
    raise ValueError(f'"limits": {asked!r}, expected an object with some of {sorted(known)}')
  checked = dataclasses.asdict(dataclasses.replace(limits, **asked))
  return Limits(**{name: min(value, known[name]) for name, value in checked.items()})


def write_result(result: Result) -> dict:
  """A result as JSON."""
  return dataclasses.asdict(result)


def read_result(told: Mapping[str, Any]) -> Result:
  """The result that `write_result` wrote."""
  return Result(**{**told, 'omitted': tuple(told['omitted']), 'left': tuple(told.get('left', ()))})


def _write_content(content: str | bytes) -> str | dict:
  if isinstance(content, bytes):
    return {'base64': base64.b64encode(content).decode()}
  return content


def _read_content(value: object) -> str | bytes:
  if isinstance(value, str):
    return value
  if isinstance(value, dict) and value.keys() == {'base64'} and isinstance(value['base64'], str):
    return base64.b64decode(value['base64'], validate=True)
  raise ValueError(f'expected a string or {{"base64": …}}, not {type(value).__name__}')
