"""Memory-augmented agents on search questions: fill a bank on one file, measure on another (arXiv 2508.16153).

    python -m bench.agent --data=train.jsonl --model=http://host:8000/v1 --bank=cases.sqlite --learn --out=runs/fill
    python -m bench.agent --data=test.jsonl --model=http://host:8000/v1 --bank=cases.sqlite --out=runs/test

Data as DeepResearcher's: `question`, `ground_truth` (several answers split by <|answer_split|>), `data_source`. Answers
are scored by `bench.qa`: F1, EM and, with --judge, PM. With --learn each judged task is written to the bank, its
reward being PM with a judge and EM without; otherwise the bank is only read, and no question sees its own case.

An interrupted run goes on where it was; what failed for want of a model or a judge is asked again. With --iterations
above 1, every pass over the data is reported by itself (one attempt a question) and together with those before it
(solved in any so far).
"""

import contextlib
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from tqdm import tqdm

from agents.mcp import McpTools, read_config
from agents.memory import CaseBank, Memory, Reading, SentenceEncoder, selector
from agents.planner.planner import Agent
from agents.toolbox import Functions, Toolbox
from bench import qa
from bench.harness import judge as judging
from bench.harness import model as models
from bench.harness.store import Log, write_text
from bench.harness.task import Answer, Data, Example
from bench.report import stats
from core.serving.client import Endpoint, RequestFailed

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Attempt:
  """One question answered once. `status` is the scorer's; `stop` why the episode ended."""

  id: str
  iteration: int
  answer: str
  stop: str
  status: str
  scores: dict[str, float]
  selector: str


def ask(agent: Agent, task, example: Example, seed: int) -> tuple[object, Attempt]:
  """(episode, attempt) of one question; iteration is filled in by the caller."""
  episode = agent.answer(example.fields['question'], task_id=example.id, seed=seed)
  (outcome,) = task.score([(example, Answer(episode.answer))])
  scores = {name: num for name, (num, _) in outcome.scores.items()}
  return episode, Attempt(example.id, 0, episode.answer, episode.stop, outcome.status, scores, episode.selector)


def run_pass(
  agent: Agent, task, examples: Sequence[Example], log: Log, iteration: int, *, seed: int, learn: bool, metric: str
) -> list[Attempt]:
  """One attempt at every question in order; those in the log already are not asked again, nor written again.

  A question whose judge failed, or whose model was not reached, is not remembered: its reward is unknown.
  """
  done = {
    (e['id'], e['iteration']): Attempt(**{f.name: e[f.name] for f in dataclasses.fields(Attempt)}) for e in log.entries
  }
  attempts = []
  for example in tqdm(examples, desc=f'iteration {iteration}', unit='question'):
    attempt = done.get((example.id, iteration))
    if attempt is None:
      episode, attempt = ask(agent, task, example, seed + iteration)
      attempt = dataclasses.replace(attempt, iteration=iteration)
      known = attempt.status not in (judging.FAILED, judging.MISSING) and attempt.stop != 'request_failed'
      if learn and known:
        agent.remember(episode, attempt.scores[metric])
      if known:
        log.append(dataclasses.asdict(attempt) | {'episode': episode.to_json()})
    attempts.append(attempt)
  return attempts


def report(passes: Sequence[Sequence[Attempt]], examples: Sequence[Example], *, resamples: int, seed: int) -> dict:
  """Metrics of each pass with intervals, by source too, beside what any pass so far has solved, and every stop."""
  sources = sorted({e.groups['source'] for e in examples})
  out = []
  for number, attempts in enumerate(passes, 1):
    metrics = {name: _estimate([a.scores[name] for a in attempts], resamples, seed) for name in attempts[0].scores}
    best = {name: [max(p[i].scores[name] for p in passes[:number]) for i in range(len(attempts))] for name in metrics}
    by_source = {
      s: {
        name: _mean([a.scores[name] for a, e in zip(attempts, examples) if e.groups['source'] == s]) for name in metrics
      }
      for s in sources
    }
    macro = {name: _mean([by_source[s][name] for s in sources]) for name in metrics}
    count = lambda values: {v: values.count(v) for v in sorted(set(values))}
    out.append(
      {
        'iteration': number,
        'attempts': 1,
        'metrics': metrics,
        'sources': by_source,
        'mean of sources': macro,
        f'any of {number} attempts': {name: _estimate(v, resamples, seed) for name, v in best.items()},
        'stops': count([a.stop for a in attempts]),
        'statuses': count([a.status for a in attempts]),
        'selectors': count([a.selector for a in attempts]),
      }
    )
  return {'questions': len(examples), 'passes': out}


def _mean(values: Sequence[float]) -> float:
  return sum(values) / len(values)


def _estimate(values: Sequence[float], resamples: int, seed: int) -> dict:
  columns = [[v] for v in values], [[1.0]] * len(values)
  return dataclasses.asdict(stats.estimate(*columns, resamples=resamples, seed=seed))


def measure(
  agent: Agent, data: Data, out: Path, *, task, iterations: int, learn: bool, seed: int, resamples: int
) -> dict:
  """Runs every pass and writes attempts.jsonl (with whole episodes) and report.json; returns the report.

  Raises ValueError when `out` belongs to another run, or there is nothing to ask.
  """
  if not data.examples:
    raise ValueError(f'no usable example in {data.read} rows')
  memory = agent.memory
  reading = dataclasses.asdict(memory.reading) if memory else None
  metric = 'pm' if 'pm' in task.group_metrics else 'em'
  header = {
    'task': 'agent',
    'data': sorted(data.files.values()),
    'planner': agent.planner.name,
    'executor': agent.executor.name,
    'limits': dataclasses.asdict(agent.limits),
    'reading': reading,
    'encoder': memory.bank.encoder.id if memory else '',
    'learn': learn,
    'seed': seed,
    'sampling': dataclasses.asdict(agent.sampling),
    'scorer': dict(task.settings),
    'reward': metric,
  }
  passes = []
  with Log(out / 'attempts.jsonl', header) as log:
    start = memory.bank.digest() if memory else ''
    for iteration in range(1, iterations + 1):
      if memory:
        memory.run = f'{out.name}/{iteration}'
      passes.append(run_pass(agent, task, data.examples, log, iteration, seed=seed, learn=learn, metric=metric))
      if learn and memory and memory.reading.kind == 'q' and memory.bank.uses():
        memory.refit()
        selector.save(out / 'selector', memory.config, memory.state)
  result = (
    header
    | report(passes, data.examples, resamples=resamples, seed=seed)
    | {'bank before': start, 'bank after': memory.bank.digest() if memory else ''}
  )
  write_text(out / 'report.json', json.dumps(result, ensure_ascii=False, indent=2, sort_keys=True) + '\n')
  return result


def define_flags() -> None:
  """Defines the flags. Importing this module defines none."""
  flags.DEFINE_string('data', None, 'Questions: a file (.json, .jsonl, .csv, .tsv, .parquet) or a folder.')
  flags.DEFINE_string('model', None, 'URL of the planner and, without --executor, of the executor.')
  flags.DEFINE_string('model_name', '', 'The model to ask for there; default: the first it lists.')
  flags.DEFINE_string('executor', None, 'URL of another model to carry out tasks.')
  flags.DEFINE_string('executor_name', '', 'The model to ask for there.')
  flags.DEFINE_string('judge', None, 'URL of a judge, for PM.')
  flags.DEFINE_string('judge_name', '', 'The model to ask for there.')
  flags.DEFINE_string('key_env', 'OPENAI_API_KEY', 'Environment variable with the key of the servers.')
  flags.DEFINE_string('mcp', None, 'File of MCP servers, {"mcpServers": {…}}.')
  flags.DEFINE_string('bank', None, 'Case bank; without one the agent has no memory.')
  flags.DEFINE_string('encoder', None, 'Folder of a sentence encoder; default: words are hashed.')
  flags.DEFINE_string('selector', None, 'Folder of a trained selector, for --read=q.')
  flags.DEFINE_enum('read', 'cosine', ['none', 'random', 'cosine', 'q'], 'How cases are chosen.')
  flags.DEFINE_integer('k', 4, 'How many cases.', 0)
  flags.DEFINE_float('alpha', 0.0, 'Temperature at which cases are drawn; 0 takes the best.', 0.0)
  flags.DEFINE_bool('own', False, 'While learning, let a question see its own case of an earlier pass.')
  flags.DEFINE_bool('learn', False, 'Write judged tasks to the bank.')
  flags.DEFINE_integer('iterations', 1, 'Passes over the data.', 1)
  flags.DEFINE_integer('limit', 0, 'Only the first so many questions; 0 for all.', 0)
  flags.DEFINE_integer('seed', 0, 'Of sampling and of the bootstrap.', 0)
  flags.DEFINE_integer('resamples', 10_000, 'Bootstrap resamples.', 100)
  flags.DEFINE_string('out', 'runs/agent-bench', 'Folder for results.')


def main(argv) -> None:
  """Runs what the flags name."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected argument {argv[1]!r}')
  for name in ('data', 'model'):
    if FLAGS[name].value is None:
      raise app.UsageError(f'--{name} is missing')
  if FLAGS.learn and not FLAGS.bank:
    raise app.UsageError('--learn needs --bank, the file to write to')
  for name in ('model', 'executor', 'judge'):
    if FLAGS[name].value and not FLAGS[name].value.startswith(('http://', 'https://')):
      raise app.UsageError(f'--{name}={FLAGS[name].value}: expected a URL (http://… or https://…)')
  if FLAGS.own and not FLAGS.learn:
    raise app.UsageError('--own goes with --learn: a measured question never sees its own case')
  logging.getLogger('httpx').setLevel(logging.WARNING)
  try:
    with contextlib.ExitStack() as stack:
      _run(stack)
  except (ValueError, OSError, RequestFailed) as error:
    sys.exit(f'error: {error}')
  except KeyboardInterrupt:
    sys.exit('stopped; finished answers are kept, run the same command to go on')


def _run(stack: contextlib.ExitStack) -> None:
  key, out = os.environ.get(FLAGS.key_env, ''), Path(FLAGS.out)
  judge = models.Endpoint(FLAGS.judge, FLAGS.judge_name, key=key) if FLAGS.judge else None
  out.mkdir(parents=True, exist_ok=True)
  task = qa.qa(judge=judge, judgements=os.path.join(out, 'judgements.jsonl') if judge else '', plain=True)
  data = task.load(FLAGS.data)
  data = dataclasses.replace(data, examples=data.examples[: FLAGS.limit or None])
  planner = Endpoint(FLAGS.model, FLAGS.model_name, key=key)
  executor = Endpoint(FLAGS.executor, FLAGS.executor_name, key=key) if FLAGS.executor else planner
  tools: Toolbox = stack.enter_context(McpTools(read_config(FLAGS.mcp))) if FLAGS.mcp else Functions()
  agent = Agent(planner, executor, tools, _memory(stack))
  result = measure(
    agent,
    data,
    out,
    task=task,
    iterations=FLAGS.iterations,
    learn=FLAGS.learn,
    seed=FLAGS.seed,
    resamples=FLAGS.resamples,
  )
  for one in result['passes']:
    shown = ', '.join(
      f'{name} {100 * e["value"]:.1f} ({100 * e["low"]:.1f} to {100 * e["high"]:.1f})'
      for name, e in one['metrics'].items()
    )
    print(f'iteration {one["iteration"]}: {shown}')
  print(f'report: {out / "report.json"}')


def _memory(stack: contextlib.ExitStack) -> Memory | None:
  if not FLAGS.bank:
    return None
  encoder = SentenceEncoder.load(FLAGS.encoder) if FLAGS.encoder else None
  config, state = selector.load(FLAGS.selector) if FLAGS.selector else (None, None)
  reading = Reading(FLAGS.read, k=FLAGS.k, alpha=FLAGS.alpha, exclude_own=not FLAGS.own, seed=FLAGS.seed)
  memory = Memory(stack.enter_context(CaseBank(FLAGS.bank, encoder)), reading, config=config, state=state)
  if FLAGS.read == 'q' and state is None:
    if memory.bank.uses():
      memory.refit()
    elif not FLAGS.learn:
      raise ValueError(f'--read=q: {FLAGS.bank} records no use of a case to learn from; give --selector')
  return memory


def cli() -> None:
  """The command line, with what a user can mend as one line."""
  sys.modules['__main__'].__doc__ = __doc__
  define_flags()
  app.run(main)


if __name__ == '__main__':
  cli()
