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

from bench import tasks
from bench.harness import runner
from bench.harness.model import open_model
from bench.harness.task import Data, Sampling, Task
from bench.report.page import number, scale_of
from core.serving.client import RequestFailed

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags. Importing this module defines none, so that it can be used beside other programs."""
  flags.DEFINE_enum('task', None, list(tasks.TASKS), 'Which benchmark.')
  flags.DEFINE_string('data', None, 'Its data: a file (.json, .jsonl, .csv, .tsv, .parquet) or a folder.')
  flags.DEFINE_string(
    'model',
    None,
    'Who answers: a folder of InternVL weights, or the URL of an OpenAI-compatible server up to and including /v1.',
  )
  flags.DEFINE_string('model_name', '', 'The model to ask for at the URL; default: the first it lists.')
  flags.DEFINE_string(
    'answers',
    None,
    'Score the answers of this file instead of asking a model: a '
    'results.jsonl or answers.jsonl of another run, or lines '
    '{"id": …, "text": …}.',
  )
  flags.DEFINE_string('out', None, 'Folder for results; default: runs/<task>/<model>.')
  flags.DEFINE_integer('samples', None, "Answers a question; default: the benchmark's own.", lower_bound=1)
  flags.DEFINE_float('temperature', None, "Sampling temperature; default: the benchmark's own.", lower_bound=0.0)
  flags.DEFINE_float('top_p', None, "Nucleus sampling; default: the benchmark's own.", 0.0, 1.0)
  flags.DEFINE_integer('top_k', None, 'Only the k likeliest tokens; 0 for all.', lower_bound=0)
  flags.DEFINE_integer('max_tokens', None, "Longest answer; default: the benchmark's own.", lower_bound=1)
  flags.DEFINE_integer('seed', 0, 'Seed of sampling and of the bootstrap.', lower_bound=0)
  flags.DEFINE_integer('limit', 0, 'Only the first so many examples; 0 for all.', lower_bound=0)
  flags.DEFINE_integer('workers', 8, 'Requests at a time.', 1, 256)
  flags.DEFINE_float('timeout', 600.0, 'Seconds for one reply.', lower_bound=0.1)
  flags.DEFINE_string('judge', None, 'URL or folder of a judge, for the tasks that can ask one.')
  flags.DEFINE_string('judge_name', '', "The model to ask for at the judge's URL.")
  flags.DEFINE_string('critic', None, 'Folder of InternVL weights that judge the steps of answers, for best@k.')
  flags.DEFINE_string('key_env', 'OPENAI_API_KEY', 'Environment variable with the key of the servers.')
  flags.DEFINE_multi_string('set', [], 'An option of the task, option=value; may be repeated.')
  flags.DEFINE_integer('resamples', 10_000, 'Bootstrap resamples.', lower_bound=100)


def main(argv) -> None:
  """Runs or rescores the benchmark that the flags name."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  for name in ('task', 'data'):
    if FLAGS[name].value is None:
      raise app.UsageError(f'--{name} is missing')
  if (FLAGS.model is None) == (FLAGS.answers is None):
    raise app.UsageError('exactly one of --model and --answers is needed')
  logging.getLogger('httpx').setLevel(logging.WARNING)  # a line for every request
  try:
    _run()
  except (ValueError, FileNotFoundError, RequestFailed, runner.TooManyFailures) as error:
    sys.exit(f'error: {error}')
  except KeyboardInterrupt:
    sys.exit('stopped; finished answers are kept, run the same command to go on')


def _run() -> None:
  judge = _open(FLAGS.judge, FLAGS.judge_name) if FLAGS.judge else None
  task = tasks.make(FLAGS.task, FLAGS.set, judge)
  data = _limited(task.load(FLAGS.data))
  model = _open(FLAGS.model, FLAGS.model_name) if FLAGS.model else None
  name = model.name if model else Path(FLAGS.answers).stem
  out = FLAGS.out or os.path.join('runs', task.name, name.replace('/', '_'))
  report = runner.run(
    task,
    data,
    out,
    model=model,
    answers=FLAGS.answers or '',
    sampling=_sampling(task),
    seed=FLAGS.seed,
    workers=FLAGS.workers,
    resamples=FLAGS.resamples,
    critic=_critic(),
  )
  for metric, estimate in list(report['metrics'].items())[:12]:
    print(f'{metric:>32}  {number(estimate, scale_of(metric, report))}')
  print(f'report: {os.path.join(out, "report.html")}')


def _open(spec: str, name: str):
  return open_model(spec, name, key_env=FLAGS.key_env, timeout=FLAGS.timeout)


def _critic():
  if not FLAGS.critic:
    return None
  from bench.harness.critic import Critic

  return Critic(FLAGS.critic)


def _limited(data: Data) -> Data:
  return dataclasses.replace(data, examples=data.examples[: FLAGS.limit]) if FLAGS.limit else data


def _sampling(task: Task) -> Sampling:
  asked = {
    'samples': FLAGS.samples,
    'temperature': FLAGS.temperature,
    'top_p': FLAGS.top_p,
    'top_k': FLAGS.top_k,
    'max_tokens': FLAGS.max_tokens,
  }
  return dataclasses.replace(task.sampling, **{name: value for name, value in asked.items() if value is not None})


def cli() -> None:
  """The command line, with what a user can mend as one line."""
  sys.modules['__main__'].__doc__ = f'{__doc__}{tasks.describe()}\n'
  define_flags()
  app.run(main)


if __name__ == '__main__':
  cli()
