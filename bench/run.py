"""Runs a benchmark and writes its results and report.

  python -m bench.run --task=aime --data=aime24.jsonl --model=http://127.0.0.1:8000/v1 --out=runs/aime
  python -m bench.run --task=cmphysbench --data=CMPhysBench.json --model=weights/InternVL3_5-8B
  python -m bench.run --task=unigenbench --data=test_prompts_en.csv --set images=images/flux --model=http://judge/v1
  python -m bench.run --task=asr --data=refs.jsonl --answers=transcripts.jsonl --set normalise=whisper_basic

Stopped runs go on where they were when started again. `python -m bench.compare` compares two of them.

Tasks and their options (--set option=value):
"""

import dataclasses
import logging
import os
import sys
from pathlib import Path

from absl import app, flags

from bench import runner, tasks
from bench.model import RequestFailed, open_model
from bench.report import number, scale_of
from bench.task import Data, Sampling, Task

_TASK = flags.DEFINE_enum('task', None, list(tasks.TASKS), 'Which benchmark.')
_DATA = flags.DEFINE_string('data', None,
                            'Its data: a file (.json, .jsonl, .csv, .tsv, .parquet) or a folder.')
_MODEL = flags.DEFINE_string('model', None, 'Who answers: a folder of InternVL weights, or the URL of an '
                             'OpenAI-compatible server up to and including /v1.')
_MODEL_NAME = flags.DEFINE_string('model_name', '',
                                  'The model to ask for at the URL; default: the first it lists.')
_ANSWERS = flags.DEFINE_string('answers', None, 'Score the answers of this file instead of asking a model: a '
                               'results.jsonl or answers.jsonl of another run, or lines '
                               '{"id": …, "text": …}.')
_OUT = flags.DEFINE_string('out', None, 'Folder for results; default: runs/<task>/<model>.')
_SAMPLES = flags.DEFINE_integer('samples', None, 'Answers a question; default: the benchmark\'s own.',
                                lower_bound=1)
_TEMPERATURE = flags.DEFINE_float('temperature', None, 'Sampling temperature; default: the benchmark\'s own.',
                                  lower_bound=0.0)
_TOP_P = flags.DEFINE_float('top_p', None, 'Nucleus sampling; default: the benchmark\'s own.', 0.0, 1.0)
_TOP_K = flags.DEFINE_integer('top_k', None, 'Only the k likeliest tokens; 0 for all.', lower_bound=0)
_MAX_TOKENS = flags.DEFINE_integer('max_tokens', None, 'Longest answer; default: the benchmark\'s own.',
                                   lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of sampling and of the bootstrap.', lower_bound=0)
_LIMIT = flags.DEFINE_integer('limit', 0, 'Only the first so many examples; 0 for all.', lower_bound=0)
_WORKERS = flags.DEFINE_integer('workers', 8, 'Requests at a time.', 1, 256)
_TIMEOUT = flags.DEFINE_float('timeout', 600.0, 'Seconds for one reply.', lower_bound=0.1)
_JUDGE = flags.DEFINE_string('judge', None, 'URL or folder of a judge, for the tasks that can ask one.')
_JUDGE_NAME = flags.DEFINE_string('judge_name', '', 'The model to ask for at the judge\'s URL.')
_KEY = flags.DEFINE_string('key_env', 'OPENAI_API_KEY', 'Environment variable with the key of the servers.')
_SET = flags.DEFINE_multi_string('set', [], 'An option of the task, option=value; may be repeated.')
_RESAMPLES = flags.DEFINE_integer('resamples', 10_000, 'Bootstrap resamples.', lower_bound=100)


def main(argv) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  for flag in (_TASK, _DATA):
    if flag.value is None:
      raise app.UsageError(f'--{flag.name} is missing')
  if (_MODEL.value is None) == (_ANSWERS.value is None):
    raise app.UsageError('exactly one of --model and --answers is needed')
  logging.getLogger('httpx').setLevel(logging.WARNING)  # a line for every request
  try:
    _run()
  except (ValueError, FileNotFoundError, RequestFailed, runner.TooManyFailures) as error:
    sys.exit(f'error: {error}')
  except KeyboardInterrupt:
    sys.exit('stopped; finished answers are kept, run the same command to go on')


def _run() -> None:
  judge = _open(_JUDGE.value, _JUDGE_NAME.value) if _JUDGE.value else None
  task = tasks.make(_TASK.value, _SET.value, judge)
  data = _limited(task.load(_DATA.value))
  model = _open(_MODEL.value, _MODEL_NAME.value) if _MODEL.value else None
  name = model.name if model else Path(_ANSWERS.value).stem
  out = _OUT.value or os.path.join('runs', task.name, name.replace('/', '_'))
  report = runner.run(task, data, out, model=model, answers=_ANSWERS.value or '', sampling=_sampling(task),
                      seed=_SEED.value, workers=_WORKERS.value, resamples=_RESAMPLES.value)
  for metric, estimate in list(report['metrics'].items())[:12]:
    print(f'{metric:>32}  {number(estimate, scale_of(metric, report))}')
  print(f'report: {os.path.join(out, "report.html")}')


def _open(spec: str, name: str):
  return open_model(spec, name, key_env=_KEY.value, timeout=_TIMEOUT.value)


def _limited(data: Data) -> Data:
  return dataclasses.replace(data, examples=data.examples[:_LIMIT.value]) if _LIMIT.value else data


def _sampling(task: Task) -> Sampling:
  asked = {'samples': _SAMPLES.value, 'temperature': _TEMPERATURE.value, 'top_p': _TOP_P.value,
           'top_k': _TOP_K.value, 'max_tokens': _MAX_TOKENS.value}
  return dataclasses.replace(task.sampling,
                             **{name: value for name, value in asked.items() if value is not None})


def cli() -> None:
  sys.modules['__main__'].__doc__ = f'{__doc__}{tasks.describe()}\n'
  app.run(main)


if __name__ == '__main__':
  cli()
