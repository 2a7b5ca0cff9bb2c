"""Messages of OpenAI's interface as the processor takes them: images inside, nothing read from files or the web."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from core.conversations import tool_calls
from core.launch.fields import field
from core.serving.chat import model as chat
from internvl.inputs import images


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one request may show."""

  images: int = field(32, 'images of a request', low=1)
  frames: int = field(64, 'frames of a video', low=1)
  pixels: int = field(33_554_432, 'pixels of an image', low=1)
  tiles: int = field(96, 'tiles of a request', low=1)


def read(messages: Sequence[Mapping], tools: Sequence[Mapping], limits: Limits) -> list[dict[str, Any]]:
  """Messages with loaded images in their parts; tools, calls and their results are written out as text.

  An image is {'type': 'image_url', 'image_url': {'url': 'data:…'}}, a video {'type': 'video', 'video': [data URLs of
  its frames]}. Raises ValueError that names the message.
  """
  turns = [_turn(number, message, limits) for number, message in enumerate(messages)]
  shown = sum(part['type'] == 'image' for turn in turns for part in turn['content'])
  if shown > limits.images:
    raise ValueError(f'{shown} images; expected at most {limits.images}')
  if not tools:
    return turns
  described = _text(tool_calls.described(tools))
  first, *others = turns
  if first['role'] != 'system':
    return [{'role': 'system', 'content': [described]}, *turns]
  content = [*first['content'], _text('\n\n'), described]
  return [{'role': 'system', 'content': content}, *others]


def _text(text: str) -> dict[str, str]:
  return {'type': 'text', 'text': text}


def frames(messages: Sequence[Mapping]) -> int:
  """The frames of the longest video; 1 without one."""
  counts = [len(part['video']) for turn in messages for part in turn['content'] if part['type'] == 'video']
  return max(counts, default=1)


def _turn(number: int, message: Mapping, limits: Limits) -> dict[str, Any]:
  role = message['role']
  content = message.get('content')
  if role == 'user' and isinstance(content, list):
    return {'role': 'user', 'content': [_part(number, part, limits) for part in content]}
  plain = chat.turn(number, message)
  text = plain['content']
  if plain['role'] == 'tool':
    wrapped = f'{tool_calls.RESPONSE}\n{text}\n{tool_calls.END_RESPONSE}'
    return {'role': 'user', 'content': [_text(wrapped)]}
  lines = [text] if text else []
  for call in plain.get('tool_calls', []):
    function = call['function']
    lines.append(tool_calls.written(function['name'], function['arguments']))
  return {'role': plain['role'], 'content': [_text('\n'.join(lines))]}


def _part(number: int, part: Any, limits: Limits) -> dict[str, Any]:
  kind = None
  if isinstance(part, Mapping):
    kind = part.get('type')
  if kind == 'text':
    return _text(chat.text_of(number, [part]))
  if kind == 'image_url':
    link = part.get('image_url')
    url = link
    if isinstance(link, Mapping):
      url = link.get('url')
    return {'type': 'image', 'image': _image(number, url, limits)}
  shots = None
  if kind == 'video':
    shots = part.get('video')
  if not isinstance(shots, list) or not 0 < len(shots) <= limits.frames:
    raise ValueError(
      f'messages[{number}]: a part {part!r:.60}; expected text, image_url, or video with 1 to {limits.frames} frames'
    )
  return {'type': 'video', 'video': [_image(number, shot, limits) for shot in shots]}


def _image(number: int, url: Any, limits: Limits) -> Image.Image:
  """An image of a data URL, whose size is checked before it is decoded."""
  if not isinstance(url, str) or not url[:5].lower() == 'data:':
    raise ValueError(f'messages[{number}]: an image {url!r:.60}; expected a data URL: nothing is fetched')
  try:
    data = images.data_uri(url)
    with images.decoding('the image'), Image.open(io.BytesIO(data), formats=images.FORMATS) as opened:
      width, height = opened.size
    if width * height > limits.pixels:
      raise ValueError(f'an image of {width}×{height} pixels; expected at most {limits.pixels}')
    return images.load(data)
  except ValueError as error:
    raise ValueError(f'messages[{number}]: {error}') from error
