"""Chat messages in the OpenAI/transformers style, resolved to turns of text, images and videos.

`content` is either a string, where `<image>` and `<video>` in a user turn mark the place of media, or a list of parts
`{'type': 'text', 'text': …}`, `{'type': 'image'}` and `{'type': 'video'}`. A media part may carry its source under its
type's name (`{'type': 'image', 'image': path}`), or in the form of OpenAI's APIs
(`{'type': 'image_url', 'image_url': {'url': 'data:…'}}`); marks and bare parts take the next of the `images` or
`videos` passed with the messages. In a list, text is only text: `<image>` there is no mark.
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

  Media without marks go to the beginning of the first user turn. An image or video without a mark is followed by a
  newline; if there are several images and `label`, `Image-{k}: ` precedes each. A single message, image or video may
  be passed without a list.

  Raises:
    ValueError: a malformed message (its number is named), text that is not Unicode, or marks and media that do not
      match.
  """
  if isinstance(messages, dict):
    messages = [messages]
  if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
    raise ValueError(f'messages must be a non-empty list of {{role, content}}, not {messages!r:.80}')
  turns = [_turn(i, message) for i, message in enumerate(messages)]
  if turns[-1].role == 'system':
    raise ValueError('the conversation ends with the system turn; a user turn was expected')
  given = {'image': _listed(images), 'video': _listed(videos)}
  kinds = [part.kind for part in _parts(turns)]
  if not any(kind in MEDIA for kind in kinds):
    bare = [_Bare(kind, None) for kind in MEDIA for _ in given[kind]]
    turns = _prepend(turns, bare)
  turns = _place(turns, given)
  images = sum(part.kind == 'image' for part in _parts(turns))
  return _spell(turns, label=label and images > 1)


def _parts(turns: list[Turn]) -> list:
  """The parts of all turns."""
  return [part for turn in turns for part in turn.parts]


def _listed(media: Any) -> list:
  """Media as a list; a single one becomes a list of one."""
  if media is None:
    return []
  if isinstance(media, (list, tuple)):
    return list(media)
  return [media]


def check_text(text: str) -> None:
  """Raises ValueError for a lone surrogate: JSON may hold one, but it is no character and cannot be encoded."""
  match = _SURROGATE.search(text)
  if match:
    code = f'U+{ord(match[0]):04X}'
    raise ValueError(f'the text has a lone surrogate {code} at character {match.start()}, which is not Unicode text')


class _Bare(NamedTuple):
  """A media part from a list, or prepended; unlike a mark it still needs its newline and label."""

  kind: str
  value: Any


def _turn(i: int, message: dict) -> Turn:
  if not isinstance(message, dict) or 'role' not in message or 'content' not in message:
    raise ValueError(f'message {i} must be a dict with role and content, not {message!r:.80}')
  role = message['role']
  if role not in ROLES:
    raise ValueError(f'message {i} has role {role!r}; known roles are {", ".join(ROLES)}')
  if role == 'system' and i:
    raise ValueError(f'message {i} is a system turn; only message 0 can be')
  parts = _content(i, role, message['content'])
  for part in parts:
    if part.kind == 'text':
      try:
        check_text(part.value)
      except ValueError as error:
        raise ValueError(f'message {i}: {error}') from error
    elif role != 'user':
      raise ValueError(f'message {i}: only user turns can hold images or videos, not the {role}')
  return Turn(role, parts)


def _content(i: int, role: str, content: Any) -> list[Part | _Bare]:
  """The parts of message i, before media without a source are filled in."""
  if isinstance(content, str):
    if role == 'user':
      return _marked(content)
    return [Part('text', content)]
  if isinstance(content, Sequence):
    return [_part(i, part) for part in content]
  raise ValueError(f'message {i}: content must be a string or a list of parts, not {content!r:.80}')


def _marked(text: str) -> list[Part]:
  """The parts of a string with marks."""
  parts = []
  for i, piece in enumerate(_MARK.split(text)):  # text, kind, text, kind, …, text
    is_kind = i % 2 == 1
    if is_kind:
      parts.append(Part(piece, None))
    elif piece:
      parts.append(Part('text', piece))
  return parts


def _part(i: int, part: dict) -> Part | _Bare:
  kind = None
  if isinstance(part, dict):
    kind = part.get('type')
  if kind == 'text' and isinstance(part.get('text'), str):
    return Part('text', part['text'])
  if kind in MEDIA and set(part) <= {'type', kind}:
    return _Bare(kind, part.get(kind))
  if kind == 'image_url':
    link = part.get('image_url')
    url = link
    if isinstance(link, dict):
      url = link.get('url')
    if isinstance(url, str):
      return _Bare('image', url)
  raise ValueError(
    f'message {i}: a part must be {{type: text, text: …}}, {{type: image, image: optional}}, '
    f'{{type: image_url, image_url: {{url: …}}}} or {{type: video, video: optional}}, not {part!r:.80}'
  )


def _prepend(turns: list[Turn], media: list[_Bare]) -> list[Turn]:
  if not media:
    return turns
  users = [i for i, turn in enumerate(turns) if turn.role == 'user']
  if not users:
    raise ValueError(f'{len(media)} images or videos were given but the messages have no user turn')
  first = users[0]
  turn = Turn('user', media + turns[first].parts)
  return turns[:first] + [turn] + turns[first + 1 :]


def _place(turns: list[Turn], given: dict[str, list]) -> list[Turn]:
  """Fills every media part without a source from `given`, in order, and checks that they match."""
  for kind in MEDIA:
    wanted = sum(part.kind == kind and part.value is None for part in _parts(turns))
    if wanted != len(given[kind]):
      raise ValueError(f'the messages hold {wanted} <{kind}> marks, but {len(given[kind])} {kind}s were given')
  unused = {kind: iter(sources) for kind, sources in given.items()}

  def fill(part):
    if part.kind not in MEDIA or part.value is not None:
      return part
    return part._replace(value=next(unused[part.kind]))

  return [Turn(turn.role, [fill(part) for part in turn.parts]) for turn in turns]


def _spell(turns: list[Turn], *, label: bool) -> list[Turn]:
  """Writes the newline and the label around media that are parts."""
  spelled = []
  images = 0
  for turn in turns:
    parts = []
    for part in turn.parts:
      images += part.kind == 'image'
      if not isinstance(part, _Bare):
        parts.append(part)
        continue
      if label and part.kind == 'image':
        parts.append(Part('text', f'Image-{images}: '))
      parts.append(Part(part.kind, part.value))
      parts.append(Part('text', '\n'))
    spelled.append(Turn(turn.role, parts))
  return spelled
