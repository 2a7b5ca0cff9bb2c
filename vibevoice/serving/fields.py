"""The fields of a request for speech: OpenAI's, and three of our own."""

import dataclasses
from collections.abc import Collection
from typing import Any

from core.serving import fields
from vibevoice.inputs import script

FORMATS = ('wav', 'pcm')
STREAM_FORMATS = ('audio', 'sse')


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
  body = fields.present(body, KNOWN)
  fields.fixed(body, {'model': offer.model, 'speed': 1, 'steps': offer.steps, 'instructions': ''})
  return Speech(
    lines=_lines(body.get('input')),
    voices=_voices(body.get('voice'), offer.voices),
    form=fields.choice(body, 'response_format', FORMATS),
    stream=fields.choice(body, 'stream_format', STREAM_FORMATS),
    cfg_scale=fields.number(body, 'cfg_scale', offer.cfg_scale, low=0, high=100),
    seed=fields.whole(body, 'seed', 0, high=fields.MAX_SEED),
  )


KNOWN = frozenset(
  {'model', 'input', 'voice', 'response_format', 'stream_format', 'speed', 'instructions', 'cfg_scale', 'steps', 'seed'}
)


def _lines(text: Any) -> tuple[script.Line, ...]:
  """A script if its first line names a speaker; any other text is what one speaker says."""
  if not isinstance(text, str) or not text.strip():
    raise ValueError(f'input={fields.short(text)}: expected a text or a script')
  first = text.strip().splitlines()[0]
  if script.UTTERANCE.fullmatch(first):
    return script.parse(text)
  words = ' '.join(text.split())
  return (script.Line(1, script.straight(words)),)


def _voices(given: Any, known: Collection[str]) -> tuple[str, ...]:
  names = given
  if isinstance(given, str):
    names = [name.strip() for name in given.split(',')]
  if not isinstance(names, list) or not names:
    raise ValueError(
      f'voice={fields.short(given)}: expected a name, names with commas between them, or a list of names'
    )
  for name in names:
    if not isinstance(name, str) or name not in known:
      raise ValueError(f'voice={fields.short(name)}: unknown; expected some of {", ".join(known)}')
  return tuple(names)
