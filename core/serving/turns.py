"""Chat turns as chat-completions servers expect them.

The content of a turn is a text or a list of parts {'type': 'text', 'text': …}, {'type': 'image', 'image': path or PIL
image}, {'type': 'audio', 'audio': path}.
"""

import base64
import io
import mimetypes
from collections.abc import Mapping
from pathlib import Path


def openai_turn(turn: Mapping) -> dict:
  """The turn as a server expects it, with images as data URLs and recordings in base64."""
  content = turn['content']
  if not isinstance(content, str):
    content = [_openai_part(part) for part in content]
  return {**turn, 'content': content}


def _openai_part(part: Mapping) -> dict:
  if part['type'] == 'image':
    return {'type': 'image_url', 'image_url': {'url': image_url(part['image'])}}
  if part['type'] == 'audio':
    path = Path(part['audio'])
    data = base64.b64encode(path.read_bytes()).decode()
    return {'type': 'input_audio', 'input_audio': {'data': data, 'format': path.suffix.lstrip('.').lower() or 'wav'}}
  return dict(part)


def image_url(image) -> str:
  """A data URL of a file (as it is) or of a PIL image (as PNG)."""
  if isinstance(image, (str, Path)):
    kind = mimetypes.guess_type(str(image))[0] or 'image/png'
    raw = Path(image).read_bytes()
  else:
    buffer = io.BytesIO()
    image.convert('RGB').save(buffer, 'PNG')
    kind = 'image/png'
    raw = buffer.getvalue()
  return f'data:{kind};base64,{base64.b64encode(raw).decode()}'
