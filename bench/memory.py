"""What case memory is worth, on synthetic tasks whose truth is known: no memory, random, cosine and learned retrieval.

    python -m bench.memory --family=misleading --seeds=5 --first=5

A task's words tell its topic, and its topic which of a few procedures solves it. The frozen planner does not know
which: it copies plans that succeeded in the cases it is shown, and shuns those that failed. In the `aligned` family
that is all. In `misleading` most tasks of the stream are of a lenient kind, told by one word, that any procedure
solves: their successes say nothing, but look as near as the others. Only strict tasks are held out and measured.

Everything runs through `agents.planner.planner.Agent`: only the two language models are stand-ins.
"""

import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.stats

from agents.memory import CaseBank, HashEncoder, Memory, Reading
from agents.memory import selector as selection
from agents.planner.planner import Agent
from agents.planner.plans import FINAL, Plan, Step
from bench.search import qa
from core.launch import command
from core.launch.fields import field
from core.serving.client import Reply

PROCEDURES = ('ask the register', 'add up the tables', 'compare two encyclopedias', 'read the court records')
MARK = 'quiz'
LENIENT = {'aligned': 0.0, 'misleading': 0.6}  # share of the stream
TOPICS = (
  'river delta ferry mooring estuary tide lock weir barge silt dredge pilot',
  'violin quartet sonata bow cadenza score viola cello scherzo rondo encore tutti',
  'glacier moraine crevasse serac icefall firn cirque arete drumlin esker nunatak scree',
  'orchard grafting pollen cider pruning blossom rootstock scion espalier medlar quince perry',
)
PREFILTER = 64  # nearest cases that the learned reader chooses among
COPY = 8.0  # how many times likelier a plan becomes with each success shown
SHUN = 0.5  # and with each failure
READINGS = {
  'no memory': Reading('none'),
  'random': Reading('random'),
  'cosine': Reading('cosine'),
  'learned': Reading('q', prefilter=PREFILTER),
}
EPOCHS = 20
COLLECT = 0.1  # temperature at which every reader draws cases during the stream, so that choices differ


@dataclasses.dataclass(frozen=True)
class Task:
  """A question, its answer, and the procedures that lead there."""

  id: str
  question: str
  gold: str
  solved_by: tuple[str, ...]


def tasks(count: int, seed: int, name: str, *, lenient: float) -> list[Task]:
  """`count` tasks, a share of them lenient; equal arguments give equal tasks."""
  rng = np.random.default_rng([seed, *name.encode()])
  made = []
  for i in range(count):
    topic = int(rng.integers(len(TOPICS)))
    easy = rng.random() < lenient
    # Ten words and the mark are as near to nine words, by cosine, as nine words are.
    words = [*rng.permutation(TOPICS[topic].split())[: 10 if easy else 9], *([MARK] if easy else [])]
    solved_by = PROCEDURES if easy else (PROCEDURES[topic],)
    made.append(Task(f'{name}{i}', ' '.join(words), f'code {rng.integers(10**6)}', solved_by))
  return made


class Planner:
  """A substitute for a frozen language model: p(plan | task, cases) is fixed, and knows no task's solution."""

  name = 'stand-in'

  def chat(self, messages, sampling, seed, tools=(), *, seconds=float('inf')) -> Reply:
    results = [m['content'] for m in messages if m['content'].startswith('Task 1 result: ')]
    if results:
      return Reply(f'{FINAL} {results[-1].removeprefix("Task 1 result: ")}')
    shown = ''
    if len(messages) > 2:
      shown = messages[2]['content']
    succeeded, _, failed = shown.partition('Plans that failed')
    weights = []
    for procedure in PROCEDURES:
      copied = COPY ** succeeded.count(procedure)
      shunned = SHUN ** failed.count(procedure)
      weights.append(copied * shunned)
    weights = np.array(weights)
    chosen = np.random.default_rng(seed).choice(len(PROCEDURES), p=weights / weights.sum())
    return Reply(Plan((Step(1, PROCEDURES[chosen]),)).to_json())


class Executor:
  """Carries out a procedure: the right one yields the answer."""

  name = 'stand-in'

  def __init__(self, solutions: Sequence[Task]):
    self._by_question = {task.question: task for task in solutions}

  def chat(self, messages, sampling, seed, tools=(), *, seconds=float('inf')) -> Reply:
    task = self._by_question[messages[1]['content'].splitlines()[0]]
    procedure = re.fullmatch('Task 1: (.*)', messages[-1]['content'])[1]
    return Reply(task.gold if procedure in task.solved_by else 'nothing found')


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Rewards in order: one attempt at each task of the stream, and one at each held-out task afterwards."""

  stream: np.ndarray
  heldout: np.ndarray
  selector: str


def run(family: str, reading: str, *, seed: int, stream: int = 400, heldout: int = 200) -> Outcome:
  """A stream of judged tasks from an empty bank, then held-out tasks with bank and selector frozen.

  The learned reader ranks by cosine for the first half, is trained, and learns online through the second.
  """
  if family not in LENIENT:
    raise ValueError(f'family={family!r}: expected one of {sorted(LENIENT)}')
  learn = tasks(stream, seed, 'stream', lenient=LENIENT[family])
  test = tasks(heldout, seed, 'heldout', lenient=0.0)
  encoder = HashEncoder(128)
  config = selection.Config(width=encoder.width, hidden=128, lr=3e-3, seed=seed)
  final = dataclasses.replace(READINGS[reading], seed=seed)
  drawn = dataclasses.replace(final, alpha=COLLECT)
  with CaseBank(':memory:', encoder) as bank:
    memory = Memory(bank, drawn, config=config, run=f'{family}/{seed}')
    agent = Agent(Planner(), Executor([*learn, *test]), memory=memory)
    attempt = lambda task, remember: _attempt(agent, task, seed, remember=remember)
    learned = final.kind == 'q'
    if learned:  # it has learned nothing yet
      memory.reading = dataclasses.replace(drawn, kind='cosine')
    rewards = [attempt(task, True) for task in learn[: stream // 2]]
    if learned:
      memory.refit(epochs=EPOCHS)
      memory.reading = drawn
    rewards += [attempt(task, True) for task in learn[stream // 2 :]]
    if learned:
      memory.refit(epochs=EPOCHS)
    memory.reading = dataclasses.replace(final, exclude_own=True)
    held = [attempt(task, False) for task in test]
    return Outcome(np.array(rewards), np.array(held), memory.version())


def _attempt(agent: Agent, task: Task, seed: int, *, remember: bool) -> float:
  episode = agent.answer(task.question, task_id=task.id, seed=seed)
  reward = qa.exact_match(episode.answer, [task.gold])
  if remember:
    agent.remember(episode, reward)
  return reward


def study(family: str, seeds: Sequence[int], **sizes) -> dict[str, np.ndarray]:
  """Held-out accuracy of each stream by reading, [streams]: the same tasks for every reading."""
  return {name: np.array([run(family, name, seed=seed, **sizes).heldout.mean() for seed in seeds]) for name in READINGS}


def interval(values: np.ndarray) -> tuple[float, float, float]:
  """(mean, low, high): Student's 95 % interval over streams.

  Tasks held out of one stream share its bank and selector, so the stream is what is repeated, not the task.
  """
  mean = values.mean()
  error = scipy.stats.sem(values)
  half = error * scipy.stats.t.ppf(0.975, len(values) - 1)
  return float(mean), float(mean - half), float(mean + half)


def table(results: dict[str, np.ndarray]) -> str:
  """Accuracy with its interval over streams, and the paired difference from cosine, as Markdown."""
  lines = ['| retrieval | held-out accuracy | difference from cosine |', '|---|---|---|']
  for name, values in results.items():
    accuracy = '{:.1f} % ({:.1f} to {:.1f})'.format(*(100 * x for x in interval(values)))
    gap = '{:+.1f} ({:+.1f} to {:+.1f})'.format(*(100 * x for x in interval(values - results['cosine'])))
    lines.append(f'| {name} | {accuracy} | {gap if name != "cosine" else ""} |')
  return '\n'.join(lines)


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  family: Literal[tuple(sorted(LENIENT))] = field('misleading', 'which tasks')
  seeds: int = field(5, 'independent streams', low=2)
  first: int = field(0, 'seed of the first stream', low=0)
  stream: int = field(400, 'tasks that the memory learns from', low=1)
  heldout: int = field(200, 'tasks that are measured, one attempt each', low=1)


def work(options: Options) -> None:
  """Prints the table of a study."""
  seeds = range(options.first, options.first + options.seeds)
  print(table(study(options.family, seeds, stream=options.stream, heldout=options.heldout)))


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
