"""The fields of a request for speech: OpenAI's, and three of our own."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from vibevoice.inputs import script

FORMATS = ('wav', 'pcm')
STREAM_FORMATS = ('audio', 'sse')
MAX_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Offer:
  """What a server offers. steps: of the solver, the same for all requests, because rows are computed together."""

  model: str
  voices: Collection[str]
  steps: int = 10
  cfg_scale: float = 1.3


@dataclasses.dataclass(frozen=True)
class Speech:
  """A request that was understood. voices: names, one for each speaker in order. form: of the bytes; stream: of the
  response, plain bytes or server-sent events."""

  lines: tuple[script.Line, ...]
  voices: tuple[str, ...]
  form: str = 'wav'
  stream: str = 'audio'
  cfg_scale: float = 1.3
  seed: int = 0


def read(body: Any, offer: Offer) -> Speech:
  """The request that JSON asks for. Raises ValueError that names the first field that cannot be served."""
  if not isinstance(body, Mapping):
    raise ValueError(f'a request of type {type(body).__name__}; expected a JSON object')
  body = {name: value for name, value in body.items() if value is not None}
  _check_fixed(body, offer)
  return Speech(
    lines=_lines(body.get('input')),
    voices=_voices(body.get('voice'), offer.voices),
    form=_choice(body, 'response_format', FORMATS),
    stream=_choice(body, 'stream_format', STREAM_FORMATS),
    cfg_scale=_number(body, 'cfg_scale', offer.cfg_scale, low=0, high=100),
    seed=_whole(body, 'seed', 0, high=MAX_SEED),
  )


KNOWN = frozenset(
  {'model', 'input', 'voice', 'response_format', 'stream_format', 'speed', 'instructions', 'cfg_scale', 'steps', 'seed'}
)


def _check_fixed(body: Mapping[str, Any], offer: Offer) -> None:
  """Raises ValueError for fields that are unknown, or known and have one value that can be served."""
  unknown = sorted(set(body) - KNOWN)
  if unknown:
    raise ValueError(f'{unknown[0]}: unknown field; expected some of {", ".join(sorted(KNOWN))}')
  only = {'model': offer.model, 'speed': 1, 'steps': offer.steps, 'instructions': ''}
  for name, value in only.items():
    given = body.get(name, value)
    if isinstance(given, bool) or given != value:
      raise ValueError(f'{name}={_short(given)}: this server has {name}={value!r} only')


def _lines(text: Any) -> tuple[script.Line, ...]:
  """A script if its first line names a speaker; any other text is what one speaker says."""
  if not isinstance(text, str) or not text.strip():
    raise ValueError(f'input={_short(text)}: expected a text or a script')
  first = text.strip().splitlines()[0]
  if script.UTTERANCE.fullmatch(first):
    return script.parse(text)
  words = ' '.join(text.split())
  return (script.Line(1, script.straight(words)),)


def _voices(given: Any, known: Collection[str]) -> tuple[str, ...]:
  names = [name.strip() for name in given.split(',')] if isinstance(given, str) else given
  if not isinstance(names, list) or not names:
    raise ValueError(f'voice={_short(given)}: expected a name, names with commas between them, or a list of names')
  for name in names:
    if not isinstance(name, str) or name not in known:
      raise ValueError(f'voice={_short(name)}: unknown; expected some of {", ".join(known)}')
  return tuple(names)


def _choice(body: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str:
  given = body.get(name, choices[0])
  if given not in choices:
    raise ValueError(f'{name}={_short(given)}: expected {" or ".join(choices)}')
  return given


def _number(body: Mapping[str, Any], name: str, default: float, *, low: float, high: float) -> float:
  given = body.get(name, default)
  is_number = isinstance(given, int | float) and not isinstance(given, bool)
  if not is_number or not math.isfinite(given) or not low <= given <= high:
    raise ValueError(f'{name}={_short(given)}: expected a number from {low} to {high}')
  return float(given)


def _whole(body: Mapping[str, Any], name: str, default: int, *, high: int) -> int:
  given = body.get(name, default)
  if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= high:
    raise ValueError(f'{name}={_short(given)}: expected a whole number from 0 to {high}')
  return given


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else text[:57] + '...'
