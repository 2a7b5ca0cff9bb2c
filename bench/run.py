"""Runs a benchmark and writes its results and report.

  python -m bench.run --task=aime --data=aime24.jsonl --model=http://127.0.0.1:8000/v1 --out=runs/aime
  python -m bench.run --task=cmphysbench --data=CMPhysBench.json --model=weights/InternVL3_5-8B
  python -m bench.run --task=unigenbench --data=test_prompts_en.csv --set images=images/flux --model=http://judge/v1
  python -m bench.run --task=asr --data=refs.jsonl --answers=transcripts.jsonl --set normalise=whisper_basic

A stopped run continues when the same command is started again. `python -m bench.compare` compares two of them.

Tasks and their options (--set option=value):
"""

import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from bench import tasks
from bench.harness import runner
from bench.harness.model import open_model
from bench.harness.task import Data, Sampling, Task
from bench.report.page import number, scale_of
from core.launch import command
from core.launch.fields import field
from core.serving.client import COMMON, Dialect, RequestFailed
from core.text import parse_json

STOPPED = 'stopped; finished answers are kept, run the same command to continue'


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  task: Literal[tuple(tasks.TASKS)] | None = field(None, 'which benchmark')
  data: str | None = field(None, 'its data: a file (.json, .jsonl, .csv, .tsv, .parquet) or a folder')
  model: str | None = field(
    None, 'who answers: a folder of InternVL weights, or the URL of an OpenAI-compatible server up to and including /v1'
  )
  model_name: str = field('', 'the model to ask for at the URL; by default the first it lists')
  answers: str | None = field(
    None,
    'score the answers of this file instead of asking a model: results.jsonl or answers.jsonl of another run, or '
    'lines {"id": …, "text": …}, or a prediction table of VLMEvalKit (.tsv)',
  )
  out: str | None = field(None, 'folder for results; by default runs/<task>/<model>')
  samples: int | None = field(None, "answers to a question; by default the benchmark's own", low=1)
  temperature: float | None = field(None, "sampling temperature; by default the benchmark's own", low=0)
  top_p: float | None = field(None, "nucleus sampling; by default the benchmark's own", low=0, high=1)
  top_k: int | None = field(None, 'only the k likeliest tokens; 0 for all', low=0)
  max_tokens: int | None = field(None, "longest answer; by default the benchmark's own", low=1)
  seed: int = field(0, 'seed of sampling and of the bootstrap', low=0)
  limit: int = field(0, 'only the first examples, this many; 0 for all', low=0)
  workers: int = field(8, 'requests at a time', low=1, high=256)
  timeout: float = field(600.0, 'seconds for one reply', low=0.1)
  judge: str | None = field(None, 'URL or folder of a judge, for the tasks that can ask one')
  judge_name: str = field('', "the model to ask for at the judge's URL")
  critic: str | None = field(None, 'folder of InternVL weights that judge the steps of answers, for best@k')
  system: str = field('', 'system text of every question, instead of none')
  limit_field: Literal['max_tokens', 'max_completion_tokens'] = field(
    'max_tokens', 'name of the field by which the server at the URL bounds a reply'
  )
  extra_body: str = field('{}', 'further fields of every request to the URL, a JSON object')
  key_env: str = field('OPENAI_API_KEY', 'environment variable with the key of the servers')
  set: tuple[str, ...] = field((), 'an option of the task, option=value', repeated=True)
  resamples: int = field(10_000, 'bootstrap resamples', low=100)

  def __post_init__(self):
    for name in ('task', 'data'):
      if getattr(self, name) is None:
        raise ValueError(f'--{name} is missing')
    if (self.model is None) == (self.answers is None):
      raise ValueError('exactly one of --model and --answers is needed')
    self.dialect()

  def dialect(self) -> Dialect:
    """How the server at the URL wants its requests. Raises ValueError for fields that are no JSON object."""
    try:
      extra = parse_json(self.extra_body)
    except ValueError as error:
      raise ValueError(f'--extra_body={self.extra_body}: not JSON ({error})') from None
    if not isinstance(extra, dict):
      raise ValueError(f'--extra_body={self.extra_body}: expected a JSON object')
    return Dialect(self.limit_field, extra)


def work(options: Options) -> None:
  """Runs or rescores the benchmark that the options name."""
  logging.getLogger('httpx').setLevel(logging.WARNING)  # a line for every request
  judge = _open(options, options.judge, options.judge_name)
  task = with_system(tasks.make(options.task, options.set, judge), options.system)
  data = _limited(task.load(options.data), options.limit)
  model = _open(options, options.model, options.model_name, options.dialect())
  name = model.name if model else Path(options.answers).stem
  out = options.out or os.path.join('runs', task.name, name.replace('/', '_'))
  report = runner.run(
    task,
    data,
    out,
    model=model,
    answers=options.answers or '',
    sampling=_sampling(task, options),
    seed=options.seed,
    workers=options.workers,
    resamples=options.resamples,
    critic=_critic(options.critic),
  )
  for metric, estimate in list(report['metrics'].items())[:12]:
    print(f'{metric:>32}  {number(estimate, scale_of(metric, report))}')
  print(f'report: {os.path.join(out, "report.html")}')


def with_system(task: Task, system: str) -> Task:
  """The task with a system turn before every question, which is part of the template, and so of the prompt's hash."""
  if not system:
    return task
  turn = {'role': 'system', 'content': system}
  prompt = task.prompt
  template = f'{system}\n{task.template}'
  return dataclasses.replace(task, template=template, prompt=lambda example: [turn, *prompt(example)])


def _open(options: Options, spec: str | None, name: str, dialect: Dialect = COMMON):
  if not spec:
    return None
  return open_model(spec, name, key_env=options.key_env, timeout=options.timeout, dialect=dialect)


def _critic(folder: str | None):
  if not folder:
    return None
  from bench.harness.critic import Critic

  return Critic(folder)


def _limited(data: Data, limit: int) -> Data:
  if limit:
    return dataclasses.replace(data, examples=data.examples[:limit])
  return data


def _sampling(task: Task, options: Options) -> Sampling:
  names = ('samples', 'temperature', 'top_p', 'top_k', 'max_tokens')
  asked = {name: getattr(options, name) for name in names}
  return dataclasses.replace(task.sampling, **{name: value for name, value in asked.items() if value is not None})


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  errors = (RequestFailed, runner.TooManyFailures)
  doc = f'{__doc__}{tasks.describe()}'
  return command.run(argv, doc, Options, work, errors=errors, interrupted=STOPPED)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
