"""InternVL as `core.serving.chat.model.Served`: chats with images and videos."""

import asyncio
import concurrent.futures
from typing import Any, get_args

from core.files.generation import Generation
from core.serving import fields
from core.serving.chat.asked import Chat, Completion
from core.serving.chat.model import Prepared, Words
from internvl.flash.routing import Compression, Routing
from internvl.inputs.processor import Inputs, Processor
from internvl.serving import messages as reading
from internvl.serving.messages import Limits
from internvl.serving.vision import Seen, Vision

EXTRA = ('max_tiles', 'compression', 'thinking', 'tile_details')


class VisionLanguageModel:
  """A processor and a place where tiles are encoded. limits: of what one request may show."""

  skip_special = False
  extra = EXTRA

  def __init__(
    self, name: str, processor: Processor, words: Words, vision: Vision, *, defaults: Generation, limits: Limits
  ):
    self.name = name
    self.defaults = defaults
    self.tokenizer = processor.tokenizer
    self.stops = words.stops
    self._processor = processor
    self._words = words
    self._vision = vision
    self._limits = limits
    self._threads = concurrent.futures.ThreadPoolExecutor(2, 'images')

  def said(self, text: str) -> str:
    """As in `Served`."""
    return self._processor.layout.answer(text)

  async def prepare(self, asked: Chat | Completion) -> list[Prepared]:
    """As in `Served`."""
    if isinstance(asked, Completion):
      return [Prepared(self._words.request(asked, self._tokens(prompt))) for prompt in asked.prompts]
    loop = asyncio.get_running_loop()
    inputs = await loop.run_in_executor(self._threads, self._inputs, asked)
    mode = None
    if 'compression' in asked.extra:
      mode = fields.choice(asked.extra, 'compression', get_args(Compression))
    found = await self._vision.see(inputs, mode) if len(inputs.pixels) else Seen(inputs, None, ())
    request = self._words.request(asked, found.inputs.tokens.tolist(), found.media)
    return [Prepared(request, self._details(asked, inputs, found))]

  def _tokens(self, prompt: str | tuple[int, ...]) -> Any:
    tokens = prompt
    if isinstance(prompt, str):
      tokens = self.tokenizer.encode(prompt)
    if self._processor.image_id in tokens:
      raise ValueError('a text completion has an image token; expected text: /v1/chat/completions takes images')
    return tokens

  def _inputs(self, asked: Chat) -> Inputs:
    """The prompt, laid out in full. Raises ValueError for what cannot be shown."""
    turns = reading.read(asked.messages, asked.tools, self._limits)
    if turns[-1]['role'] == 'assistant':
      raise ValueError('the conversation ends with the assistant; a user turn was expected')
    cap = self._processor.config.max_tiles
    x = self._processor(
      turns,
      thinking=fields.flag(asked.extra, 'thinking'),
      max_tiles=fields.whole(asked.extra, 'max_tiles', None, low=1, high=cap),
      pick=_every,
      frames=reading.frames(turns),
    )
    if len(x.pixels) > self._limits.tiles:
      raise ValueError(f'{len(x.pixels)} tiles; expected at most {self._limits.tiles}: set max_tiles lower')
    return x

  def _details(self, asked: Chat, x: Inputs, found: Seen) -> dict[str, Any]:
    if not len(x.pixels):
      return {}
    routed = found.routing
    counts = {
      'tiles': len(x.pixels),
      'image_tokens': routed.full - routed.saved,
      'image_tokens_saved': routed.saved,
    }
    return counts | ({'images': _drawn(x, routed)} if fields.flag(asked.extra, 'tile_details') else {})


def _every(total: int, frames: int) -> list[int]:
  """The rule that takes every frame that a client sends."""
  del frames
  return list(range(total))


def _drawn(x: Inputs, routed: Routing) -> list[dict[str, Any]]:
  """What a page draws over each image: its grid, and of each tile the tokens and the router's score."""
  compressed = routed.compressed.tolist()
  scores = [None] * len(compressed) if routed.scores is None else [round(float(p), 4) for p in routed.scores]
  tiles = [
    {'tokens': routed.compact_tokens if small else routed.tokens, 'compressed': small, 'score': score}
    for small, score in zip(compressed, scores)
  ]
  made = []
  start = 0
  for count, grid in zip(x.tiles.tolist(), x.grids.tolist()):
    made.append({'grid': grid, 'tiles': tiles[start : start + count]})
    start += count
  return made
