"""From a request's JSON to the bytes of its speech."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from core.serving import metrics
from core.serving.admission import Admission
from vibevoice.generation.scheduler import Request
from vibevoice.inputs.processor import Processor
from vibevoice.serving import fields, sound
from vibevoice.serving.library import Library
from vibevoice.serving.worker import Worker

MEANINGS = {
  'requests': 'requests whose speech was begun',
  'frames': 'frames of speech made',
  'steps': 'tokens chosen in all rows',
  'cancelled': 'requests whose client left',
  'complete': 'requests spoken to the end',
  'truncated': 'requests cut at the limit of the speech or the context',
  'failed': 'requests with logits that are NaN or infinite',
}


class Service:
  """Speech for requests. limit: tokens that a request may speak at most, one a frame and a few."""

  def __init__(
    self,
    processor: Processor,
    library: Library,
    worker: Worker,
    *,
    offer: fields.Offer,
    admission: Admission,
    limit: int,
  ):
    self.offer = offer
    self.admission = admission
    self._processor = processor
    self._library = library
    self._worker = worker
    self._limit = limit

  def understand(self, body: Any) -> tuple[fields.Speech, Request]:
    """The request of a JSON body, checked whole. Raises ValueError in one line."""
    speech = fields.read(body, self.offer)
    clips = [self._library.voices[name].clip for name in speech.voices]
    inputs = self._processor(speech.lines, clips)
    used = speech.voices[: len(inputs.voices)]
    request = Request(
      tokens=inputs.tokens,
      slots=inputs.slots,
      latents=self._library.latents(used, seed=speech.seed),
      scale=speech.cfg_scale,
      seed=speech.seed,
      limit=self._limit,
    )
    return speech, request

  async def frames(self, request: Request) -> AsyncIterator[bytes]:
    """PCM of each frame when it is made. Close the iterator: an abandoned request costs until then.

    Raises `core.serving.admission.Full` if it may not wait, `worker.Failed` as `Worker.speak`.
    """
    async with self.admission.place(), contextlib.aclosing(self._worker.speak(request)) as news:
      async for made in news:
        if made.samples is not None:
          yield sound.pcm16(made.samples)

  def samples(self) -> list[metrics.Sample]:
    """Counts and gauges for Prometheus."""
    counts = self._worker.counts
    made = [
      metrics.Sample(f'espalier_speech_{name}_total', counts[name], 'counter', meaning)
      for name, meaning in MEANINGS.items()
    ]
    rows = metrics.Sample('espalier_speech_rows', self._worker.running, 'gauge', 'rows that read or speak')
    queue = metrics.Sample('espalier_speech_waiting', self.admission.queued, 'gauge', 'requests that wait for a row')
    return [*made, rows, queue]
