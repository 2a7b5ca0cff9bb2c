"""Memory-augmented agents on search questions: fill a bank on one file, measure on another (arXiv 2508.16153).

    python -m bench.agent --data=train.jsonl --model=http://host:8000/v1 --bank=cases.sqlite --learn --out=runs/fill
    python -m bench.agent --data=test.jsonl --model=http://host:8000/v1 --bank=cases.sqlite --out=runs/test

    python -m bench.agent --task=gaia --data=gaia/metadata.jsonl --model=http://host:8000/v1 --tools=documents,python

Data as DeepResearcher's: `question`, `ground_truth` (several answers split by <|answer_split|>), `data_source`. Answers
are scored by `bench.search.qa`: F1, EM and, with --judge, PM. --task=gaia takes GAIA's files (`Question`, `Final
answer`, `Level`, `file_name`) and its scorer; the documents tool reads the folder of the data. With --learn each judged
task is written to the bank, its reward being PM with a judge and EM without; otherwise the bank is only read, and no
question sees its own case.

An interrupted run continues where it was; questions that the model or the judge did not answer are asked again. With
--iterations above 1, every pass over the data is reported by itself (one attempt a question) and together with those
before it (solved in any so far).
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from agents import tool_servers
from agents.memory import CaseBank, Memory, Reading, SentenceEncoder, selector
from agents.planner import prompts
from agents.planner.planner import Agent
from agents.toolbox import Functions, Toolbox
from bench.harness import judge as judging
from bench.harness import model as models
from bench.harness.store import Log, write_text
from bench.harness.task import Answer, Data, Example
from bench.report import stats
from bench.search import gaia, qa
from core.launch import command
from core.launch.fields import field
from core.serving.client import Endpoint, RequestFailed

REWARDS = ('pm', 'em', 'accuracy')  # what a case is worth: the first of these that the task has
STOPPED = 'stopped; finished answers are kept, run the same command to continue'


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
  files = example.fields.get('files', ())
  episode = agent.answer(example.fields['question'], task_id=example.id, attachments=files, seed=seed)
  (outcome,) = task.score([(example, Answer(episode.answer))])
  scores = {name: num for name, (num, _) in outcome.scores.items()}
  return episode, Attempt(example.id, 0, episode.answer, episode.stop, outcome.status, scores, episode.selector)


def run_pass(
  agent: Agent,
  task,
  examples: Sequence[Example],
  log: Log,
  iteration: int,
  *,
  seed: int,
  learn: bool,
  metric: str,
  parallel: int,
) -> list[Attempt]:
  """One attempt at every question, in order; those in the log already are not asked again, nor written again.

  A question whose judge failed, or whose model was not reached, is not remembered: its reward is unknown.
  """
  done = {
    (e['id'], e['iteration']): Attempt(**{f.name: e[f.name] for f in dataclasses.fields(Attempt)}) for e in log.entries
  }
  left = [example for example in examples if (example.id, iteration) not in done]
  new = {}
  with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
    asked = pool.map(lambda example: ask(agent, task, example, seed + iteration), left)
    for episode, attempt in tqdm(asked, desc=f'iteration {iteration}', unit='question', total=len(left)):
      attempt = new[attempt.id] = dataclasses.replace(attempt, iteration=iteration)
      known = attempt.status not in (judging.FAILED, judging.MISSING) and attempt.stop != 'request_failed'
      if learn and known:
        agent.remember(episode, attempt.scores[metric])
      if known:
        log.append(dataclasses.asdict(attempt) | {'episode': episode.to_json()})
  return [done.get((example.id, iteration)) or new[example.id] for example in examples]


def report(passes: Sequence[Sequence[Attempt]], examples: Sequence[Example], *, resamples: int, seed: int) -> dict:
  """Metrics of each pass with intervals, also by source or level; the share solved by any pass so far; the stops."""
  of = [next(iter(example.groups.values()), 'all') for example in examples]
  sources = sorted(set(of))
  out = []
  for number, attempts in enumerate(passes, 1):
    metrics = {name: _estimate([a.scores[name] for a in attempts], resamples, seed) for name in attempts[0].scores}
    best = {name: [max(p[i].scores[name] for p in passes[:number]) for i in range(len(attempts))] for name in metrics}
    by_source = {
      s: {name: _mean([a.scores[name] for a, source in zip(attempts, of) if source == s]) for name in metrics}
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
  agent: Agent,
  data: Data,
  out: Path,
  *,
  task,
  iterations: int,
  learn: bool,
  seed: int,
  resamples: int,
  parallel: int = 1,
) -> dict:
  """Runs every pass and writes attempts.jsonl (with whole episodes) and report.json; returns the report.

  Raises ValueError when `out` belongs to another run, or there is nothing to ask.
  """
  if not data.examples:
    raise ValueError(f'no usable example in {data.read} rows')
  memory = agent.memory
  reading = dataclasses.asdict(memory.reading) if memory else None
  metric = next(name for name in REWARDS if name in task.group_metrics)
  header = {
    'task': 'agent' if task.name == 'qa' else f'agent {task.name}',
    'data': sorted(data.files.values()),
    'prompt_hash': hashlib.sha256(f'{prompts.PLANNER}{prompts.EXECUTOR}'.encode()).hexdigest(),
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
      passes.append(
        run_pass(
          agent,
          task,
          data.examples,
          log,
          iteration,
          seed=seed,
          learn=learn,
          metric=metric,
          parallel=parallel,
        )
      )
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


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  data: str | None = field(None, 'questions: a file (.json, .jsonl, .csv, .tsv, .parquet) or a folder')
  task: Literal['qa', 'gaia'] = field('qa', 'kind of data, and its scorer')
  model: str | None = field(None, 'URL of the planner and, without --executor, of the executor')
  model_name: str = field('', 'the model to ask for there; by default the first it lists')
  executor: str | None = field(None, 'URL of another model to carry out tasks')
  executor_name: str = field('', 'the model to ask for there')
  judge: str | None = field(None, 'URL of a judge, for PM')
  judge_name: str = field('', 'the model to ask for there')
  key_env: str = field('OPENAI_API_KEY', 'environment variable with the key of the servers')
  tools: tuple[str, ...] = field((), f'servers of ours to start: {", ".join(tool_servers.SERVERS)}')
  searx: str | None = field(None, 'address of a SearxNG instance, for --tools=search')
  corpus: str | None = field(None, 'JSON-lines file to search instead, {"title", "text", "url"} a line')
  mcp: str | None = field(None, 'file of further MCP servers, {"mcpServers": {…}}')
  parallel: int = field(1, 'questions at a time; 1 with --learn, where each is to see the cases before it', low=1)
  bank: str | None = field(None, 'case bank; without one the agent has no memory')
  encoder: str | None = field(None, 'folder of a sentence encoder; by default words are hashed')
  selector: str | None = field(None, 'folder of a trained selector, for --read=q')
  read: Literal['none', 'random', 'cosine', 'q'] = field('cosine', 'how cases are chosen')
  k: int = field(4, 'how many cases', low=0)
  alpha: float = field(0.0, 'temperature at which cases are drawn; 0 takes the best', low=0)
  own: bool = field(False, 'while learning, let a question see its own case of an earlier pass')
  learn: bool = field(False, 'write judged tasks to the bank')
  iterations: int = field(1, 'passes over the data', low=1)
  limit: int = field(0, 'only the first questions, this many; 0 for all', low=0)
  seed: int = field(0, 'of sampling and of the bootstrap', low=0)
  resamples: int = field(10_000, 'bootstrap resamples', low=100)
  out: str = field('runs/agent-bench', 'folder for results')

  def __post_init__(self):
    for name in ('data', 'model'):
      if getattr(self, name) is None:
        raise ValueError(f'--{name} is missing')
    if self.learn and not self.bank:
      raise ValueError('--learn needs --bank, the file to write to')
    for name in ('model', 'executor', 'judge'):
      url = getattr(self, name)
      if url and not url.startswith(('http://', 'https://')):
        raise ValueError(f'--{name}={url}: expected a URL (http://… or https://…)')
    tool_servers.check(self.tools, searx=self.searx, corpus=self.corpus)
    if self.learn and self.parallel > 1:
      raise ValueError(f'--parallel={self.parallel}: expected 1 with --learn, where each question sees earlier cases')
    if self.judge and self.task != 'qa':
      raise ValueError(f'--judge: --task={self.task} has a scorer of its own')
    if self.own and not self.learn:
      raise ValueError('--own needs --learn: a measured question never sees its own case')


def work(options: Options) -> None:
  """Runs what the options name."""
  logging.getLogger('httpx').setLevel(logging.WARNING)
  with contextlib.ExitStack() as stack:
    result = _measure(options, stack)
  for one in result['passes']:
    shown = ', '.join(
      f'{name} {100 * e["value"]:.1f} ({100 * e["low"]:.1f} to {100 * e["high"]:.1f})'
      for name, e in one['metrics'].items()
    )
    print(f'iteration {one["iteration"]}: {shown}')
  print(f'report: {Path(options.out) / "report.json"}')


def _measure(options: Options, stack: contextlib.ExitStack) -> dict:
  from agents.mcp import McpTools

  key = os.environ.get(options.key_env, '')
  out = Path(options.out)
  judge = None
  if options.judge:
    judge = models.Endpoint(options.judge, options.judge_name, key=key)
  out.mkdir(parents=True, exist_ok=True)
  judgements = ''
  if judge:
    judgements = os.path.join(out, 'judgements.jsonl')
  task = gaia.gaia(plain=True) if options.task == 'gaia' else qa.qa(judge=judge, judgements=judgements, plain=True)
  data = task.load(options.data)
  data = dataclasses.replace(data, examples=data.examples[: options.limit or None])
  planner = Endpoint(options.model, options.model_name, key=key)
  executor = planner
  if options.executor:
    executor = Endpoint(options.executor, options.executor_name, key=key)
  root = Path(options.data) if Path(options.data).is_dir() else Path(options.data).parent
  own = tool_servers.servers(options.tools, root, searx=options.searx, corpus=options.corpus)
  wanted = tool_servers.with_others(own, options.mcp)
  tools: Toolbox = stack.enter_context(McpTools(wanted)) if wanted else Functions()
  return measure(
    Agent(planner, executor, tools, _memory(options, stack)),
    data,
    out,
    task=task,
    iterations=options.iterations,
    learn=options.learn,
    seed=options.seed,
    resamples=options.resamples,
    parallel=options.parallel,
  )


def _memory(options: Options, stack: contextlib.ExitStack) -> Memory | None:
  if not options.bank:
    return None
  encoder = None
  if options.encoder:
    encoder = SentenceEncoder.load(options.encoder)
  config, state = selector.load(options.selector) if options.selector else (None, None)
  reading = Reading(options.read, k=options.k, alpha=options.alpha, exclude_own=not options.own, seed=options.seed)
  bank = stack.enter_context(CaseBank(options.bank, encoder))
  memory = Memory(bank, reading, config=config, state=state)
  if options.read == 'q' and state is None:
    if memory.bank.uses():
      memory.refit()
    elif not options.learn:
      raise ValueError(f'--read=q: {options.bank} records no use of a case to learn from; give --selector')
  return memory


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work, errors=(RequestFailed,), interrupted=STOPPED)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
