"""A step of GRPO on text: ours against TRL's, of the same float32 weights and prompts.

  python -m bench.perf.grpo --peer_python=…/bin/python [--model=runs/smollm2/base --max_new=16]

One pinned thread each, CPU seconds, the arms interleaved, after a step that compiles; least rollout, least update and
least whole step of the repeats. A step samples, rewards (the variety of characters: no judge whose time would count),
and updates once by AdamW with the clipped loss of DAPO. Sampled tokens differ, their mean is printed; the
log-probabilities that TRL's model gives to our first response must be those of our engine. `--accumulate` cuts the
update of both into micro-batches. `--peer_python` names the interpreter of an environment with trl.
"""

import contextlib
import dataclasses
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bench.perf.measuring import qwen, report
from bench.perf.measuring.peer import Peer
from bench.perf.measuring.pinned import pin
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.

RATE = 1e-6  # of learning
TOLERANCE = 2e-3  # of log-probabilities, whose float32 sums have other orders
PEER = pathlib.Path(__file__).with_name('grpo_peer.py')
Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Options(qwen.Shape):
  """The program's flags."""

  peer_python: str = field(sys.executable, 'interpreter of an environment with trl')
  model: str | None = field(None, 'folder of a checkpoint with a chat template; None: random weights of the shape')
  prompts: int = field(8, 'prompts of a step', low=1)
  group: int = field(8, 'responses to each prompt', low=2)
  max_new: int = field(64, 'longest response in tokens', low=1)
  accumulate: tuple[int, ...] = field((1, 8), 'numbers of micro-batches, each of which divides the prompts')
  repeats: int = field(3, 'timed steps of each arm', low=1)
  json: bool = field(False, 'print JSON')

  def __post_init__(self):
    wrong = [n for n in self.accumulate if n < 1 or self.prompts % n]
    if wrong:
      raise ValueError(f'accumulate={wrong[0]}: expected a divisor of prompts={self.prompts}')


def variety(query: Any, response: str) -> float:
  """The reward: different characters, as a share of 64."""
  return len(set(response)) / 64


def random_folder(options: Options, folder: str) -> None:
  """Writes random weights of the shape and a tokenizer of bytes, filled up to the vocabulary."""
  from core.files.tokenizers import byte_tokenizer
  from rl.policy import text

  special = [text.BLANK, text.START, text.END]
  ends = {'eos': text.END, 'pad': text.BLANK}
  filling = [f'<{n}>' for n in range(options.vocab - len(byte_tokenizer(special, **ends)))]
  tokenizer = byte_tokenizer(special + filling, **ends)
  tokenizer.chat_template = text.CHAT_TEMPLATE
  tokenizer.save_pretrained(folder)
  qwen.reference(options).save_pretrained(folder)


def conversations(options: Options) -> list[list[dict]]:
  """A question for each prompt of the run, in fewer bytes for a random model."""
  from core.toy import pairs

  count = options.prompts * (options.repeats + 1)
  items = [pairs.example('train', 0, i) for i in range(count)]
  short = options.model is None
  asked = ['Add {} to {}.'.format(*item.terms) if short else item.question for item in items]
  return [[{'role': 'user', 'content': question}] for question in asked]


@contextlib.contextmanager
def peer(options: Options, plan: Any) -> Iterator[Peer]:
  """TRL's trainer for the same run, in its own process."""
  with tempfile.TemporaryDirectory() as workdir:
    about = {
      'folder': str(plan.folder),
      'conversations': plan.conversations,
      'responses': plan.prompts * plan.group,
      'group': plan.group,
      'max_new': plan.max_new,
      'accumulate': plan.accumulate,
      'lr': plan.lr,
      'workdir': workdir,
    }
    process = Peer(options.peer_python, PEER, about)
    try:
      yield process
    finally:
      process.close()


def gap(trajectory: Any, trl: Peer) -> float:
  """Largest difference of log-probabilities. Raises ValueError when the two models are not the same."""
  asked = [trajectory.prompt.tokens.tolist(), trajectory.tokens.tolist()]
  answered = np.array(trl.ask({'logp': asked}))
  largest = float(np.abs(answered - trajectory.logp).max())
  if not largest <= TOLERANCE:
    raise ValueError(f'log-probabilities differ by {largest:.2g}: expected at most {TOLERANCE}')
  return largest


def least(steps: Sequence[Figures]) -> Figures:
  """Least seconds of each part and of whole steps, and mean tokens."""
  whole = [step['rollout s'] + step['update s'] for step in steps]
  parts = {part: min(step[part] for step in steps) for part in ('rollout s', 'update s')}
  return {'step s': min(whole), **parts, 'tokens': statistics.mean(step['tokens'] for step in steps)}


def take_turns(arms: Sequence[Callable[[], Figures]], *, repeats: int) -> list[Figures]:
  """The figures of each arm, the least of interleaved steps."""
  rounds = [[step() for step in arms] for _ in range(repeats)]
  return [least(steps) for steps in zip(*rounds)]


def compare(options: Options, folder: str, accumulate: int) -> dict[str, Any]:
  """A row of figures with `accumulate` micro-batches."""
  from bench.perf import grpo_ours

  sizes = {'prompts': options.prompts, 'group': options.group, 'max_new': options.max_new}
  asked = conversations(options)
  plan = grpo_ours.Plan(folder, asked, accumulate=accumulate, lr=RATE, reward=variety, **sizes)
  run = grpo_ours.Run(plan)
  with peer(options, plan) as trl:
    compiling = run.step()
    difference = gap(run.trajectory, trl)
    their_step = lambda: trl.ask({})
    their_step()
    ours, theirs = take_turns([run.step, their_step], repeats=options.repeats)
  row = {'what': f'{accumulate} micro-batches'}
  row |= {f'ours {name}': value for name, value in ours.items()}
  row |= {f'TRL {name}': value for name, value in theirs.items()}
  row |= {f'{name[:-2]} times faster': theirs[name] / ours[name] for name in ours if name.endswith(' s')}
  return row | {'gap of log-probabilities': difference, 'first step s': compiling['rollout s'] + compiling['update s']}


def work(options: Options) -> None:
  """Measures each number of micro-batches."""
  pin()
  with tempfile.TemporaryDirectory() as folder:
    if options.model is None:
      random_folder(options, folder)
    report.show(report.machine(), as_json=options.json)
    for accumulate in options.accumulate:
      report.show(compare(options, options.model or folder, accumulate), as_json=options.json)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
