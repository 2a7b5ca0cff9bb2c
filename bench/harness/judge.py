"""Asking another model for a verdict: bounded, cached, resumable, and tied to one wording of the question."""

import dataclasses
import hashlib
import string
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.harness.parallel import each_as_it_finishes
from bench.harness.store import Log, dump
from bench.harness.task import Sampling, user_message
from core.serving.client import RequestFailed
from core.text import clean, parse_json
from rl.rewards.extract import strip_thoughts

SAMPLING = Sampling(max_tokens=1024)
OK = 'ok'
FAILED = 'judge_failed'
MISSING = 'judge_missing'


@dataclasses.dataclass(frozen=True)
class Template:
  """A question with $fields. Its hash, over every character, is stored with each verdict."""

  text: str

  @property
  def hash(self) -> str:
    return hashlib.sha256(self.text.encode()).hexdigest()

  def fill(self, fields: Mapping[str, str]) -> str:
    """The question itself. Raises ValueError for a field that the template names and `fields` lacks."""
    try:
      return string.Template(self.text).substitute({name: clean(value) for name, value in fields.items()})
    except (KeyError, ValueError) as error:
      raise ValueError(f'judge template: {error}; the fields are {", ".join(fields)}, a dollar sign is $$') from None


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What the judge decided (None unless status is "ok"), and the text it last wrote."""

  value: Any
  status: str
  raw: str


class Judge:
  """Verdicts on filled templates.

  model: an Endpoint or Local, or None to read verdicts from `cache` alone (offline). parse(text) gives the
  verdict or raises ValueError, and then the judge is asked again, at most `attempts` times in all. Finished
  verdicts go to `cache` at once, so nothing is asked twice, in this run or a later one; a cache of another
  judge or another template is refused. Failures are not cached.
  """

  def __init__(
    self,
    model,
    template: Template,
    parse: Callable[[str], Any],
    cache: Path,
    *,
    name: str = '',
    attempts: int = 5,
    sampling: Sampling = SAMPLING,
    workers: int = 8,
  ):
    if model is None and not cache.is_file():
      raise FileNotFoundError(f'{cache}: no judgements to read, and no judge to ask')
    self.name = name or getattr(model, 'name', '') or _judge_of(cache)
    self.template = template
    self._model = model
    self._parse = lambda reply: parse(strip_thoughts(reply))  # a judge may reason before its verdict
    self._attempts = attempts
    self._sampling = sampling
    self._workers = workers
    self._lock = threading.Lock()
    self._log = Log(cache, {'judge': self.name, 'template': template.hash})
    usable = [entry for entry in self._log.entries if isinstance(entry.get('raw'), str)]
    self._known = {entry.get('key'): entry['raw'] for entry in usable}

  def settings(self) -> dict:
    return {'judge': self.name, 'judge_template': self.template.hash, 'judge_attempts': self._attempts}

  def ask(self, fields: Mapping[str, str]) -> Verdict:
    question = self.template.fill(fields)
    key = hashlib.sha256(dump([self.name, self.template.hash, question]).encode()).hexdigest()
    with self._lock:
      known = self._known.get(key)
    if known is not None:
      return Verdict(self._parse(known), OK, known)
    if self._model is None:
      return Verdict(None, MISSING, '')
    raw = ''
    for attempt in range(self._attempts):
      try:
        raw = self._model(user_message(question), self._sampling, attempt).text
        value = self._parse(raw)
      except RequestFailed as error:  # it has spent its own attempts already
        return Verdict(None, FAILED, str(error))
      except ValueError:
        continue
      with self._lock:
        self._log.append({'key': key, 'raw': raw})
        self._known[key] = raw
      return Verdict(value, OK, raw)
    return Verdict(None, FAILED, raw[:2000])

  def ask_all(self, questions: Iterable[Mapping[str, str]]) -> Sequence[Verdict]:
    """Verdicts in the order of the questions; equal questions are asked once."""
    questions = list(questions)
    unique = list({dump(dict(q)): q for q in questions}.values())
    workers = 0
    if getattr(self._model, 'concurrent', True):
      workers = self._workers
    finished = each_as_it_finishes(self.ask, unique, workers)
    bar = tqdm(finished, total=len(unique), desc='judging', unit='question', disable=len(unique) < 2)
    verdicts = {dump(dict(question)): verdict for question, verdict in bar}
    return [verdicts[dump(dict(q))] for q in questions]


def _judge_of(cache: Path) -> str:
  """The judge that a cache names in its first line."""
  with open(cache, encoding='utf-8') as f:
    header = parse_json(f.readline())
  if not isinstance(header, dict) or not isinstance(header.get('judge'), str):
    raise ValueError(f'{cache}: its first line does not name a judge')
  return header['judge']
