"""Takes the pictures of the chat page in docs/serving.md: `python -m tests.internvl.page_pictures docs`.

Tiles, scores and times are those of a real server with a random vision tower; the reply is a script.
"""

import contextlib
import dataclasses
import io
import pathlib
import sys
from collections.abc import Callable, Iterator

import jax
from PIL import Image, ImageDraw, ImageFont

import internvl
from core.engine import Engine
from core.files.generation import Generation
from core.serving.admission import Capacity
from core.serving.chat import http
from core.serving.chat.model import Words
from core.serving.chat.program import text_of
from core.serving.chat.service import Service
from core.serving.chat.worker import Worker
from internvl.features import Images
from internvl.flash import router
from internvl.inputs.processor_config import ProcessorConfig
from internvl.serving import page
from internvl.serving.messages import Limits
from internvl.serving.model import VisionLanguageModel
from internvl.serving.vision import Coupled
from tests.core.serving.chat import scripted
from tests.internvl import page_browser

QUESTION = 'Which month sold most, and what does the note say?'
REPLY = 'March sold most: 41 boxes. The note says that the second shop opens in May, and that its shelves are ordered.'
NOTE = 'The second shop opens in May.\nIts shelves are ordered.'
SOLD = {'Jan': 23, 'Feb': 30, 'Mar': 41, 'Apr': 28}
PAPER, INK, BAR = '#fbf8f0', '#333333', '#4a78b8'


def model():
  """(configuration, random weights, processor) of a tiny Flash model that compresses half of the tiles."""
  tiny = internvl.CONFIGS['tiny-flash']
  rule = router.Config(relative=0.5, absolute=0.0)
  config = dataclasses.replace(tiny, vision=dataclasses.replace(tiny.vision, image_size=64, patch=8), flash=rule)
  constants = ProcessorConfig(image_size=64, tokens_per_tile=config.tokens_per_tile, max_tiles=12, system='')
  processor = internvl.Processor.over_bytes(constants)
  config = dataclasses.replace(config, image_token=processor.image_id)
  return config, internvl.init(jax.random.key(0), config), processor


@contextlib.contextmanager
def serving(script: Callable[[str, int], str], pause: float = 0.0) -> Iterator[str]:
  """The address of the page of a server that says a script (`scripted.Scripted`); pause: seconds of a segment."""
  config, params, processor = model()
  images = Images(params, config)
  programs = scripted.Scripted(script, segment=4, pause=pause)
  sizes = {'slots': 2, 'pages': 400, 'page_size': 8, 'segment': 4}
  text = text_of(processor.tokenizer)
  engine = Engine(None, config.language, **sizes, programs=programs, features=images, text=text)
  programs.engine = engine
  words = Words(processor.tokenizer, vocab=config.language.vocab, stops=processor.stop_ids, tokens=2000)
  fixed = {'defaults': Generation(temperature=1.0), 'limits': Limits()}
  served = VisionLanguageModel('tiny', processor, words, Coupled(images), **fixed)
  with Worker(engine) as worker:
    service = Service(served, worker, capacity=Capacity(4), seconds=60.0)
    app = http.application(service, page.routes(service))
    with scripted.running(app, open_paths=('/',)) as url:
      yield url.removesuffix('v1')


def chart() -> Image.Image:
  """Bars on paper, three tiles wide and two high."""
  image = Image.new('RGB', (384, 256), PAPER)
  pen = ImageDraw.Draw(image)
  pen.text((20, 12), 'Boxes sold', INK, ImageFont.load_default(20))
  for place, (month, boxes) in enumerate(SOLD.items()):
    left = 24 + 90 * place
    pen.rectangle((left, 220 - 4 * boxes, left + 60, 220), BAR)
    pen.text((left + 14, 226), month, INK, ImageFont.load_default(16))
  return image


def note() -> Image.Image:
  """Two lines at the top of a page, two tiles wide and three high."""
  image = Image.new('RGB', (256, 384), PAPER)
  ImageDraw.Draw(image).text((16, 20), NOTE, INK, ImageFont.load_default(15), spacing=8)
  return image


def upload(image: Image.Image, name: str) -> dict:
  """A picture as a browser's file."""
  buffer = io.BytesIO()
  image.save(buffer, 'PNG')
  return {'name': name, 'mimeType': 'image/png', 'buffer': buffer.getvalue()}


def take(address: str, viewport: dict[str, int], path: pathlib.Path) -> None:
  """Asks about two images and takes a picture of the page."""
  with page_browser.opened(f'{address}#secret', viewport) as opened:
    page_browser.send(opened, QUESTION, [upload(chart(), 'chart.png'), upload(note(), 'note.png')])
    opened.wait_for_selector('.legend')
    opened.screenshot(path=path)


def main(folder: str) -> None:
  """Writes both pictures."""
  with serving(lambda *_: REPLY) as address:
    take(address, page_browser.DESKTOP, pathlib.Path(folder, 'serving_page.png'))
    take(address, page_browser.PHONE, pathlib.Path(folder, 'serving_page_phone.png'))


if __name__ == '__main__':
  main(*sys.argv[1:])
