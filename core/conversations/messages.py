"""Chat messages in the OpenAI/transformers style, resolved to turns of text, images and videos.

`content` is either a string, in which `<image>` and `<video>` in a user's turn mark where media go, or a
list of parts `{'type': 'text', 'text': …}`, `{'type': 'image'}` and `{'type': 'video'}`. A media part may
carry its source under its type's name (`{'type': 'image', 'image': path}`), or as OpenAI's APIs write it
(`{'type': 'image_url', 'image_url': {'url': 'data:…'}}`); marks and bare parts take the next of the `images` or
`videos` that come with the messages. In a list, text is only text: `<image>` there is no mark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

ROLES = ('system', 'user', 'assistant')
MEDIA = ('image', 'video')
_MARK = re.compile('<(image|video)>')
_SURROGATE = re.compile('[\ud800-\udfff]')


class Part(NamedTuple):
  """kind 'text': value is the text. 'image' or 'video': value is the source, as the loaders take it."""

  kind: str
  value: Any


class Turn(NamedTuple):
  """One turn of a conversation: who speaks, and text and media in order."""

  role: str
  parts: list[Part]


def parse(messages: Sequence[dict] | dict, images: Any = None, videos: Any = None, *, label: bool = True) -> list[Turn]:
  """Checks messages and puts every image and video in its place.

  Media that nothing marks go to the head of the first user turn. Outside marks, an image or video is followed
  by a newline, and several images are introduced by `Image-{k}: ` if `label`. A single message, image or video may
  come without its list.

  Raises:
    ValueError: a malformed message (its number is named), text that is not Unicode, or marks and media that do not
      match.
  """
  messages = [messages] if isinstance(messages, dict) else messages
  if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
    raise ValueError(f'messages must be a non-empty list of {{role, content}}, not {messages!r:.80}')
  turns = [_turn(i, m) for i, m in enumerate(messages)]
  if turns[-1].role == 'system':
    raise ValueError('the conversation ends with the system turn; a user turn was expected')
  given = {'image': _listed(images), 'video': _listed(videos)}
  if not any(p.kind in MEDIA for t in turns for p in t.parts):
    turns = _prepend(turns, [_Bare(kind, None) for kind in MEDIA for _ in given[kind]])
  turns = _place(turns, given)
  total = sum(p.kind == 'image' for t in turns for p in t.parts)
  return _spell(turns, label and total > 1)


def _listed(media: Any) -> list:
  """Media as a list: one that came alone is a list of one."""
  if media is None:
    return []
  return list(media) if isinstance(media, (list, tuple)) else [media]


def check_text(text: str) -> None:
  """Raises ValueError for half of a surrogate pair: JSON may hold one, but it is no character and has no bytes."""
  match = _SURROGATE.search(text)
  if match:
    raise ValueError(
      f'the text has a lone surrogate U+{ord(match[0]):04X} at character {match.start()}, which is not Unicode text'
    )


class _Bare(NamedTuple):
  """A media part from a list or prepended: it still needs its newline and label (a mark does not)."""

  kind: str
  value: Any


def _turn(i: int, message: dict) -> Turn:
  if not isinstance(message, dict) or 'role' not in message or 'content' not in message:
    raise ValueError(f'message {i} must be a dict with role and content, not {message!r:.80}')
  role, content = message['role'], message['content']
  if role not in ROLES:
    raise ValueError(f'message {i} has role {role!r}; known roles are {", ".join(ROLES)}')
  if role == 'system' and i:
    raise ValueError(f'message {i} is a system turn; only message 0 can be')
  if isinstance(content, str):
    parts = _marked(content) if role == 'user' else [Part('text', content)]
  elif isinstance(content, Sequence):
    parts = [_part(i, part) for part in content]
  else:
    raise ValueError(f'message {i}: content must be a string or a list of parts, not {content!r:.80}')
  for part in parts:
    if part.kind == 'text':
      try:
        check_text(part.value)
      except ValueError as error:
        raise ValueError(f'message {i}: {error}') from error
  if role != 'user' and any(p.kind in MEDIA for p in parts):
    raise ValueError(f'message {i}: only user turns can hold images or videos, not the {role}')
  return Turn(role, parts)


def _marked(text: str) -> list[Part]:
  pieces = _MARK.split(text)  # text, kind, text, kind, …, text
  return [Part('text', piece) if i % 2 == 0 else Part(piece, None) for i, piece in enumerate(pieces) if piece or i % 2]


def _part(i: int, part: dict) -> Part | _Bare:
  kind = part.get('type') if isinstance(part, dict) else None
  if kind == 'text' and isinstance(part.get('text'), str):
    return Part('text', part['text'])
  if kind in MEDIA and set(part) <= {'type', kind}:
    return _Bare(kind, part.get(kind))
  if kind == 'image_url':
    link = part.get('image_url')
    url = link.get('url') if isinstance(link, dict) else link
    if isinstance(url, str):
      return _Bare('image', url)
  raise ValueError(
    f'message {i}: a part must be {{type: text, text: …}}, {{type: image, image: optional}}, '
    f'{{type: image_url, image_url: {{url: …}}}} or {{type: video, video: optional}}, not {part!r:.80}'
  )


def _prepend(turns: list[Turn], media: list[_Bare]) -> list[Turn]:
  if not media:
    return turns
  first = next((i for i, t in enumerate(turns) if t.role == 'user'), None)
  if first is None:
    raise ValueError(f'{len(media)} images or videos were given but the messages have no user turn')
  turn = Turn('user', media + turns[first].parts)
  return turns[:first] + [turn] + turns[first + 1 :]


def _place(turns: list[Turn], given: dict[str, list]) -> list[Turn]:
  """Fills every media part without a source from `given`, in order, and checks that they match."""
  for kind in MEDIA:
    wanted = sum(p.kind == kind and p.value is None for t in turns for p in t.parts)
    if wanted != len(given[kind]):
      raise ValueError(f'the messages hold {wanted} <{kind}> marks, but {len(given[kind])} {kind}s were given')
  rest = {kind: iter(sources) for kind, sources in given.items()}
  fill = lambda p: p._replace(value=next(rest[p.kind])) if p.kind in MEDIA and p.value is None else p
  return [Turn(t.role, [fill(p) for p in t.parts]) for t in turns]


def _spell(turns: list[Turn], label: bool) -> list[Turn]:
  """Writes out the newline and the label around media that came as parts."""
  k, spelled = 0, []
  for turn in turns:
    parts = []
    for part in turn.parts:
      k += part.kind == 'image'
      if not isinstance(part, _Bare):
        parts.append(part)
        continue
      if label and part.kind == 'image':
        parts.append(Part('text', f'Image-{k}: '))
      parts += [Part(part.kind, part.value), Part('text', '\n')]
    spelled.append(Turn(turn.role, parts))
  return spelled
