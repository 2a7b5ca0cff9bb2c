"""Runs one task: asks the questions without an answer, scores every answer, writes the results.

In the folder: answers.jsonl, every finished answer in order of arrival (a later run does not ask for it again);
results.jsonl, one line an example in the order of the data; report.json, report.md, report.html and charts.
"""

import dataclasses
import hashlib
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from bench.harness.parallel import each_as_it_finishes
from bench.harness.rows import read_rows
from bench.harness.store import Log, dump, locked, write_text
from bench.harness.task import REQUEST_FAILED, Answer, Data, Example, Item, Outcome, Sampling, Task
from bench.report import page as report
from bench.report import summary
from core.serving.client import RequestFailed
from core.text import clean

VERSION = '2'  # raised when answers score differently
MOST_FAILURES = 20
REFUSING_ALL = frozenset({401, 402, 403, 404, 405})  # statuses that every other question would get too


class TooManyFailures(RuntimeError):
  """Too many consecutive requests failed to expect success of the rest."""


def run(
  task: Task,
  data: Data,
  folder: str,
  *,
  model=None,
  answers: str = '',
  sampling: Sampling | None = None,
  seed: int = 0,
  workers: int = 8,
  resamples: int = 10_000,
  critic=None,
) -> dict:
  """The report of `task` on `data`, with answers of `model` or, without one, of the file `answers`.

  critic: a `bench.harness.critic.Critic`, which gives answers the rewards that best-of-N ranks them by.
  Raises ValueError if there is nothing to score or `folder` belongs to another run.
  """
  _check_examples(data)
  start = time.monotonic()
  out = Path(folder)
  if model is not None:
    sampling = sampling or task.sampling
    given = generate(task, data, out, model, sampling, seed, workers)
    source = {'model': model.name, 'generation': {**model.settings(sampling), 'seed': seed}}
  else:
    given, account = read_answers(answers, data.examples)
    source = {'model': Path(answers).name, 'generation': account}
  if critic is not None:
    given = critic(task, data.examples, given)
    source['critic'] = critic.name
  items = score(task, data.examples, given)
  header = _header(task, data, source) | {'bootstrap': {'resamples': resamples, 'seed': seed}}
  numbers = summary.summarise(task, items, resamples=resamples, seed=seed)
  header['settings_hash'] = settings_hash(header)
  lines = [dump(result_line(item, header['settings_hash'])) + '\n' for item in items]
  write_text(out / 'results.jsonl', ''.join(lines))
  seconds = round(time.monotonic() - start, 3)
  return report.write(task, header | numbers | {'seconds': seconds}, items, out)


def _check_examples(data: Data) -> None:
  """Raises ValueError, with the reasons for skipped rows, if there is no example."""
  if data.examples:
    return
  reasons = sorted({problem.reason for problem in data.skipped})
  told = '; '.join(reasons[:5]) or 'there are none'
  raise ValueError(f'no usable example in {data.read} rows: {told}')


def _header(task: Task, data: Data, source: Mapping) -> dict:
  """The settings of a run, as its report states them."""
  return {
    'tool': {'name': 'espalier-jax bench', 'version': VERSION},
    'task': task.name,
    'primary': task.primary,
    'percent': task.percent,
    'data': _account(data),
    **source,
    'prompt_hash': prompt_hash(task),
    'scorer': dict(task.settings),
  }


def prompt_hash(task: Task) -> str:
  """Identifies the wording of a task's prompts, so that runs compare only under one."""
  return hashlib.sha256(task.template.encode()).hexdigest()


def settings_hash(header: Mapping) -> str:
  """Identifies what scores depend on besides the answers: the task, its data, its prompt, scorer and judge."""
  parts = {name: header[name] for name in ('tool', 'task', 'prompt_hash', 'scorer')}
  parts['data'] = sorted(header['data']['files'].values())
  return hashlib.sha256(dump(parts).encode()).hexdigest()


def _account(data: Data) -> dict:
  return {
    'files': dict(data.files),
    'read': data.read,
    'examples': len(data.examples),
    'skipped': list(map(dataclasses.asdict, data.skipped)),
    'repaired': list(map(dataclasses.asdict, data.repaired)),
  }


def sample_seed(seed: int, example_id: str, sample: int) -> int:
  """31 bits that depend on the arguments alone, so neither order nor a restart changes an answer."""
  digest = hashlib.sha256(dump([seed, example_id, sample]).encode()).digest()
  return int.from_bytes(digest[:4]) >> 1


def generate(
  task: Task, data: Data, out: Path, model, sampling: Sampling, seed: int, workers: int
) -> dict[str, list[Answer]]:
  """All answers: those already in `out`, and the model's for the rest."""
  # The data are identified by their files, not by the number of examples: a run over ten may be extended to all.
  header = {
    'task': task.name,
    'data': sorted(data.files.values()),
    'model': model.name,
    'seed': seed,
    'prompt_hash': prompt_hash(task),
    **{k: v for k, v in model.settings(sampling).items() if k != 'samples'},
  }
  with locked(out), Log(out / 'answers.jsonl', header) as log:
    done = _finished(log)
    wanted = [(example, k) for example in data.examples for k in range(sampling.samples)]
    missing = [(example, k) for example, k in wanted if (example.id, k) not in done]
    if len(missing) < len(wanted):
      print(f'{len(wanted) - len(missing)} of {len(wanted)} answers are there already')

    def ask(pair):
      example, k = pair
      answer, status = _ask(task, example, model, sampling, sample_seed(seed, example.id, k))
      if status is None and answer.finish != 'failed':  # on disk before the run can be interrupted
        log.append({'id': example.id, 'sample': k, **_plain(answer)})
      return answer, status

    for (example, k), answer in _asked(ask, missing, workers if model.concurrent else 0, trusted=bool(done)):
      done[example.id, k] = answer
  return {example.id: [done[example.id, k] for k in range(sampling.samples)] for example in data.examples}


def _plain(answer: Answer) -> dict:
  """An answer as files have it; `_answer` reads it."""
  plain = {'text': answer.text, 'finish': answer.finish}
  if answer.reward is not None:
    plain['reward'] = answer.reward
  if answer.reasoning:
    return plain | {'reasoning': answer.reasoning}
  return plain


def _finished(log: Log) -> dict[tuple[str, int], Answer]:
  """The answers of a log by example and sample; the first of several."""
  done: dict[tuple[str, int], Answer] = {}
  for entry in log.entries:
    answer = _answer(entry)
    if answer is not None and isinstance(entry.get('id'), str) and isinstance(entry.get('sample'), int):
      done.setdefault((entry['id'], entry['sample']), answer)
  return done


def _ask(task: Task, example: Example, model, sampling: Sampling, seed: int) -> tuple[Answer, int | None]:
  """(one answer, the status of a refusal or None).

  Asked again, with the next seed, while the task cannot use the answer and attempts are left.
  """
  try:
    messages = task.prompt(example)
    for attempt in range(task.attempts):
      answer = model(messages, sampling, (seed + attempt) & 0x7FFFFFFF)
      if task.accept(example, answer.text):
        break
    return answer, None
  except RequestFailed as error:
    return Answer(str(error), 'failed'), error.status


def _asked(ask, missing: Sequence, workers: int, *, trusted: bool) -> Iterator[tuple]:
  """(question, answer) as they finish, so that finished answers are kept if the run ends early.

  A refusal that would apply to every question (no such model, no permission) ends the run at once, any other refusal
  the second time if no question was answered before (`trusted` false), and many consecutive failures in any case.
  """
  failures = refusals = 0
  bar = tqdm(total=len(missing), desc='asking', unit='answer', disable=not missing)
  with bar:
    for question, (answer, status) in each_as_it_finishes(ask, missing, workers):
      failed = answer.finish == 'failed'
      trusted = trusted or not failed
      failures = failures + 1 if failed else 0
      refusals += status is not None
      bar.update()
      yield question, answer
      if status in REFUSING_ALL or (refusals > 1 and not trusted):
        raise RequestFailed(f'{answer.text}\nThe server refuses such requests; nothing more was asked.', status)
      if failures >= MOST_FAILURES:
        raise TooManyFailures(
          f'{failures} requests in a row failed, the last with: {answer.text}\n'
          'Finished answers are kept; run the same command to resume.'
        )


def read_answers(path: str, examples: Sequence[Example]) -> tuple[dict[str, list[Answer]], dict]:
  """Answers of a file, by example, and an account of it.

  A line is {"id", "text", "sample"?, "finish"?, "reward"?}, or {"id", "samples": [{"text", …}, …]} as in
  results.jsonl, or a row of VLMEvalKit's prediction table, with "prediction" as its text. In place of an id, "index"
  or "index" and "image" will do. Examples without an answer get one empty answer marked as failed.
  """
  rows = read_rows(path)
  found: dict[str, dict[int, Answer]] = {}
  bad = len(rows.skipped)
  unknown = 0
  known = {example.id for example in examples}
  for _, row in rows.rows:
    key, samples = _answers_of(row)
    if key is None:
      bad += 'text' in row or 'samples' in row or 'id' in row  # a log's first line is none of these
    elif key not in known:
      unknown += 1
    else:
      mine = found.setdefault(key, {})
      for at, answer in samples:
        mine.setdefault(len(mine) if at is None else at, answer)
  given = {key: [answer for _, answer in sorted(samples.items())] for key, samples in found.items()}
  if not given:
    raise ValueError(f'{path}: none of its {rows.read} lines answers any of the {len(examples)} examples')
  account = {
    'answers': dict(rows.files),
    'unusable_lines': bad,
    'unknown_ids': unknown,
    'examples_without_answer': len(known) - len(given),
  }
  samples = max(map(len, given.values()))
  missing = Answer('no answer in the file', 'failed')
  answers = {}
  for example in examples:
    own = given.get(example.id, [])
    answers[example.id] = own + [missing] * (samples - len(own))
  return answers, account


def _answers_of(row: Mapping) -> tuple[str | None, list[tuple[int | None, Answer]]]:
  pictured = f'{row["index"]}_{row["image"]}' if {'index', 'image'} <= row.keys() else row.get('index')
  key = row.get('id', pictured)
  if not isinstance(key, (str, int)) or isinstance(key, bool):
    return None, []
  listed = row.get('samples')
  listed = listed if isinstance(listed, list) else [row]
  answers = [(part.get('sample'), _answer(part)) for part in listed if isinstance(part, Mapping)]
  if not answers or any(answer is None for _, answer in answers):
    return None, []
  return clean(str(key)), [(at if isinstance(at, int) else None, answer) for at, answer in answers]


def _answer(part: Mapping) -> Answer | None:
  text = part.get('text', part.get('prediction'))
  finish = part.get('finish', 'stop')
  reward = part.get('reward')
  if not isinstance(text, str) or finish not in ('stop', 'length', 'failed'):
    return None
  usable = isinstance(reward, (int, float)) and not isinstance(reward, bool) and math.isfinite(reward)
  reasoning = part.get('reasoning')
  reasoning = clean(reasoning) if isinstance(reasoning, str) else ''
  return Answer(clean(text), finish, float(reward) if usable else None, reasoning)


def score(task: Task, examples: Sequence[Example], given: Mapping[str, Sequence[Answer]]) -> list[Item]:
  """Items in the order of the examples. A failed request is scored as an empty answer, and says so."""
  pairs = [(example, answer) for example in examples for answer in given[example.id]]
  asked = [(example, Answer('') if answer.finish == 'failed' else answer) for example, answer in pairs]
  outcomes = []
  for (_, answer), outcome in zip(pairs, task.score(tqdm(asked, desc='scoring', unit='answer'))):
    failed = answer.finish == 'failed'
    outcomes.append(dataclasses.replace(outcome, status=REQUEST_FAILED) if failed else outcome)
  if len(outcomes) != len(pairs):
    raise RuntimeError(f'{task.name}: {len(outcomes)} outcomes for {len(pairs)} answers')
  items = []
  rest = iter(outcomes)
  for example in examples:
    answers = tuple(given[example.id])
    scored = tuple(itertools.islice(rest, len(answers)))
    items.append(Item(example, answers, scored, task.combine(example, answers, scored)))
  return items


def result_line(item: Item, settings: str) -> dict:
  """One line of results.jsonl. It holds no times, so that equal runs write equal files. settings: `settings_hash`."""
  return {
    'id': item.example.id,
    'settings_hash': settings,
    'unit': item.example.unit,
    'groups': dict(item.example.groups),
    'scores': _lists(item.scores),
    'samples': list(map(_sample, item.answers, item.outcomes)),
  }


def _sample(answer: Answer, outcome: Outcome) -> dict:
  detail = {}
  if outcome.detail:
    detail = {'detail': dict(outcome.detail)}
  return {
    **_plain(answer),
    'status': outcome.status,
    'answer': outcome.answer,
    'scores': _lists(outcome.scores),
    **detail,
  }


def _lists(scores: Mapping[str, tuple[float, float]]) -> dict[str, list[float]]:
  return {metric: list(pair) for metric, pair in scores.items()}
