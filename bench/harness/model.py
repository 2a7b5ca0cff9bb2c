"""Where answers come from: an OpenAI-compatible endpoint, or a local folder of weights.

Both are called in the same way, `model(messages, sampling, seed) -> Answer`, with messages as in `core.serving.client`.
"""

import dataclasses
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from bench.harness.task import Answer, Sampling
from core.files import store
from core.files.config import read_json
from core.serving import client as endpoint
from core.text import clean


class Endpoint(endpoint.Endpoint):
  """A server as a source of answers. Safe to call from several threads."""

  concurrent = True

  def __call__(self, messages: list[dict], sampling: Sampling, seed: int) -> Answer:
    reply = self.chat(messages, sampling, seed)
    return Answer(reply.text, reply.finish, reasoning=reply.reasoning)

  def settings(self, sampling: Sampling) -> dict:
    """What the report says about how answers were drawn."""
    extra = {}
    if self.dialect.extra:
      extra = {'extra_body': json.dumps(self.dialect.extra, sort_keys=True)}
    return dataclasses.asdict(sampling) | extra


class Local:
  """An InternVL folder, loaded once; calls are serialised, for there is one set of weights."""

  concurrent = False

  def __init__(self, path: str):
    import internvl

    self.name = Path(path).resolve().name
    self._internvl = internvl
    self._lock = threading.Lock()
    self._config, self._params = internvl.load(path)
    self._processor = internvl.Processor.load(path)

  def __call__(self, messages: list[dict], sampling: Sampling, seed: int) -> Answer:
    with self._lock:
      text = self._internvl.chat(
        self._params,
        self._config,
        self._processor,
        [_as_parts(turn) for turn in messages],
        max_new_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        seed=seed,
        stream=False,
      )
    return Answer(clean(text))

  def settings(self, sampling: Sampling) -> dict:
    """`internvl.chat` samples from the whole distribution; the task's defaults do not apply."""
    return dataclasses.asdict(dataclasses.replace(sampling, top_p=1.0, top_k=0))


def _as_parts(turn: Mapping) -> dict:
  """Text as a separate part, in which `<image>` is only text."""
  content = turn['content']
  return {**turn, 'content': [{'type': 'text', 'text': content}] if isinstance(content, str) else content}


def open_model(
  spec: str,
  name: str = '',
  *,
  key_env: str = 'OPENAI_API_KEY',
  timeout: float = 600.0,
  dialect: endpoint.Dialect = endpoint.COMMON,
):
  """The model that `spec` names: a server by its URL, or a folder by its path or URL (`core.files.store`).

  dialect: of the server. Raises ValueError for anything else, RequestFailed if deaf.
  """
  if spec.startswith(('http://', 'https://')):
    return Endpoint(spec, name, key=os.environ.get(key_env, ''), timeout=timeout, dialect=dialect)
  folder = store.folder(spec)
  if not folder.has('config.json'):
    raise ValueError(f'--model={spec}: neither a URL (http://… or https://…) nor a folder with a config.json')
  kind = read_json(folder, 'config.json').get('model_type', '')
  if not str(kind).startswith('internvl'):
    raise ValueError(
      f'--model={spec}: model_type is {kind!r}; local folders of InternVL can be loaded here, '
      'any other model can be served behind an OpenAI-compatible URL'
    )
  return Local(spec)
