"""A vision-language model as a judge: one chat request a comparison, with both images."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from core.serving.client import Endpoint, RequestFailed, Sampling
from rl.flow.judges import template as templates
from rl.flow.judges.cache import Replies, key_of
from rl.rewards.pairwise import JudgeFailed

Ask = Callable[[Sequence[Mapping[str, Any]]], str]  # of a conversation: the model's reply
GREEDY = Sampling(temperature=0.0, max_tokens=4096)
QUALITY = 95  # of the JPEG files that the published judges were trained with


class ChatJudge:
  """`ChatJudge(ask, name)(caption, first, second)` -> 'first', 'second' or 'tie', read from the reply.

  ask: sends a conversation, such as `endpoint(…)`; it raises JudgeFailed where no reply comes. name: of the model, part
  of the key of its replies. template: with $caption; its hash is in every line of the cache. cache: a file of replies.
  """

  def __init__(self, ask: Ask, name: str, *, template: str = templates.DEFAULT, cache: str | None = None):
    templates.question('', template)
    self._ask = ask
    self._name = name
    self._template = template
    self.template_hash = templates.template_hash(template)
    self._replies = None if cache is None else Replies(cache)

  def __call__(self, caption: str, first: Image.Image, second: Image.Image) -> str:
    return templates.read(self.reply(caption, first, second))

  def reply(self, caption: str, first: Image.Image, second: Image.Image) -> str:
    """The judge's text, from the cache where it is known. Raises JudgeFailed."""
    key = key_of([self._name, self.template_hash, caption], [first, second])
    known = None
    if self._replies is not None:
      known = self._replies.get(key)
    if known is not None:
      return known
    text = {'type': 'text', 'text': templates.question(caption, self._template)}
    pictures = [{'type': 'image', 'image': image} for image in (first, second)]
    reply = self._ask([{'role': 'user', 'content': [*pictures, text]}])
    if self._replies is not None:
      notes = {
        'judge': self._name,
        'template': self.template_hash,
        'caption': caption,
        'verdict': templates.read(reply),
      }
      self._replies.add(key, reply, **notes)
    return reply


def endpoint(server: Endpoint, *, sampling: Sampling = GREEDY, seed: int = 0) -> Ask:
  """Asks a chat-completions server, with images as JPEG; retries and time-outs are the endpoint's."""

  def ask(messages: Sequence[Mapping[str, Any]]) -> str:
    try:
      return server.chat([_as_jpeg(turn) for turn in messages], sampling, seed).text
    except RequestFailed as error:
      raise JudgeFailed(str(error)) from error

  return ask


def _as_jpeg(turn: Mapping[str, Any]) -> dict:
  """A turn whose images are `image_url` parts."""
  parts = []
  for part in turn['content']:
    if part['type'] == 'image':
      buffer = io.BytesIO()
      part['image'].convert('RGB').save(buffer, 'JPEG', quality=QUALITY)
      url = 'data:image/jpeg;base64,' + base64.b64encode(buffer.getvalue()).decode()
      part = {'type': 'image_url', 'image_url': {'url': url}}
    parts.append(part)
  return {**turn, 'content': parts}
