"""Asks an agent a question: a planner, an executor with tools, and a memory of earlier tasks.

    python -m agents.run 'Which river …?' --model=http://127.0.0.1:8000/v1 --tools=crawl,search --searx=http://…
    python -m agents.run 'What is the total?' --model=URL --attach=table.xlsx --tools=documents,python
    python -m agents.run 'Which river …?' --model=URL --bank=cases.sqlite --feedback=ask

The trace is shown as it goes and saved as HTML and JSON in --out. With --feedback the finished task becomes a case of
the bank: `ask` asks on the terminal whether the answer is right; `right` and `wrong` say so beforehand.
"""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from agents import tool_servers
from core.launch import command
from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str | None = field(
    None,
    'who plans and, without --executor, carries out: the URL of an OpenAI-compatible server up to and including /v1',
  )
  model_name: str = field('', 'the model to ask for there; by default the first it lists')
  executor: str | None = field(None, 'the URL of another model to carry out tasks')
  executor_name: str = field('', 'the model to ask for there')
  key_env: str = field('OPENAI_API_KEY', 'environment variable with the key of the servers')
  timeout: float = field(600.0, 'seconds for one reply of a model', low=0.1)
  max_tokens: int = field(15_000, 'longest reply; the context of the model holds it as well', low=1)
  context: int = field(175_000, 'most tokens of the turns that a model is sent, by estimate', low=1)
  limit_field: Literal['max_tokens', 'max_completion_tokens'] = field(
    'max_tokens', 'field of a request that bounds the reply'
  )
  tools: tuple[str, ...] = field((), f'servers of ours to start: {", ".join(tool_servers.SERVERS)}')
  mcp: str | None = field(None, 'file of further MCP servers, {"mcpServers": {name: {"command", "args"} or {"url"}}}')
  searx: str | None = field(None, 'address of a SearxNG instance, for --tools=search')
  corpus: str | None = field(None, 'JSON-lines file to search instead, {"title", "text", "url"} a line')
  attach: tuple[str, ...] = field((), 'file that belongs to the question', repeated=True)
  bank: str | None = field(None, 'case bank to read from and, with --feedback, to write to')
  encoder: str | None = field(None, 'folder of a BERT or RoBERTa sentence encoder; by default words are hashed')
  read: Literal['none', 'random', 'cosine', 'q'] = field('cosine', 'how cases are chosen')
  selector: str | None = field(None, 'folder of a trained selector, for --read=q')
  k: int = field(4, 'how many cases', low=0)
  task_id: str = field('', 'the id of the question')
  feedback: Literal['ask', 'right', 'wrong'] | None = field(None, 'store the finished task as a case')
  cycles: int = field(3, 'most plans', low=1)
  steps: int = field(30, 'most replies of the executor to one task', low=1)
  seconds: float = field(3600.0, 'most seconds for the question', low=0.1)
  temperature: float = field(0.0, 'of sampling', low=0)
  seed: int = field(0, 'of sampling', low=0)
  out: str = field('runs/agent', 'folder for trace.html and episode.json')
  questions: tuple[str, ...] = field((), 'the question', positional=True)

  def __post_init__(self):
    if len(self.questions) != 1 or not self.questions[0].strip():
      raise ValueError(f'{len(self.questions)} questions: expected one, in quotes')
    _check_models(self)
    _check_tools(self)
    if self.read == 'q' and not self.selector:
      raise ValueError('--read=q needs --selector=FOLDER')
    if self.feedback and not self.bank:
      raise ValueError('--feedback needs --bank, the file to remember in')
    if self.feedback == 'ask' and not sys.stdin.isatty():
      raise ValueError('--feedback=ask needs a terminal to ask on')


def _check_models(options: Options) -> None:
  if not options.model:
    raise ValueError('--model=URL is needed')
  for name in ('model', 'executor'):
    url = getattr(options, name)
    if url and not url.startswith(('http://', 'https://')):
      raise ValueError(f'--{name}={url}: expected a URL (http://… or https://…)')


def _check_tools(options: Options) -> None:
  tool_servers.check(options.tools, searx=options.searx, corpus=options.corpus)
  if options.attach and 'documents' not in options.tools:
    raise ValueError('--attach: add documents to --tools, or nothing can read the file')


def open_memory(options: Options, stack: contextlib.ExitStack):
  """The memory that the flags ask for, or None."""
  if not options.bank:
    return None
  from agents.memory import CaseBank, Memory, Reading, SentenceEncoder, selector

  bank = stack.enter_context(CaseBank(options.bank, SentenceEncoder.load(options.encoder) if options.encoder else None))
  config, state = selector.load(options.selector) if options.selector else (None, None)
  return Memory(
    bank,
    Reading(options.read, k=options.k, seed=options.seed),
    config=config,
    state=state,
    online=False,
    run='agents.run',
  )


def endpoints(options: Options) -> tuple:
  """(planner, executor): the models that the flags name."""
  from core.serving.client import Dialect, Endpoint

  dialect = Dialect(limit=options.limit_field)
  key = os.environ.get(options.key_env, '')
  planner = Endpoint(options.model, options.model_name, key=key, dialect=dialect, timeout=options.timeout)
  if not options.executor:
    return planner, planner
  return planner, Endpoint(options.executor, options.executor_name, key=key, dialect=dialect, timeout=options.timeout)


def open_tools(options: Options, folder: Path, stack: contextlib.ExitStack):
  """The toolbox over the servers that the flags ask for, ended with the stack."""
  from agents.toolbox import Functions

  own = {}
  if options.tools:
    own = tool_servers.servers(options.tools, folder, searx=options.searx, corpus=options.corpus)
  wanted = own
  if options.mcp:
    wanted = tool_servers.with_others(own, options.mcp)
  if not wanted:
    return Functions()
  from agents.mcp import McpTools

  return stack.enter_context(McpTools(wanted))


def attached(paths: Sequence[str], folder: Path) -> list[str]:
  """The names of the files, copied into `folder`. Raises ValueError when two have one name."""
  names = [Path(shutil.copy(path, folder)).name for path in paths]
  if len(set(names)) < len(names):
    raise ValueError(f'--attach: two files have one name among {names}')
  return names


def ask(options: Options) -> int:
  """Everything after the flags; returns 0 when there is an answer. Raises ValueError, OSError or RuntimeError."""
  from agents.planner import trace
  from agents.planner.episode import Limits
  from agents.planner.planner import Agent
  from core.serving.client import Sampling

  with contextlib.ExitStack() as stack:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='agent-')))
    names = attached(options.attach, folder)
    memory = open_memory(options, stack)
    planner, executor = endpoints(options)
    tools = open_tools(options, folder, stack)
    limits = Limits(cycles=options.cycles, steps=options.steps, seconds=options.seconds, context_tokens=options.context)
    sampling = Sampling(temperature=options.temperature, max_tokens=options.max_tokens)
    agent = Agent(planner, executor, tools, memory, limits, sampling)
    episode = agent.answer(
      options.questions[0],
      task_id=options.task_id,
      attachments=names,
      seed=options.seed,
      on_event=trace.Printer(),
    )
    save(episode, Path(options.out))
    reward = judged(options.feedback)
    if reward is not None:
      agent.remember(episode, reward)
  if episode.stop == 'answered':
    return 0
  return 1


def save(episode, folder: Path) -> None:
  """Prints the answer and writes trace.html and episode.json."""
  from agents.planner import trace
  from core.training.record import replace

  trace.write(episode, folder / 'trace.html')
  text = json.dumps(dataclasses.asdict(episode), ensure_ascii=False, indent=2)
  replace(folder / 'episode.json', text + '\n')
  print(episode.answer if episode.stop == 'answered' else f'(no answer: {episode.stop})')
  print(f'trace: {folder / "trace.html"}', file=sys.stderr)


def judged(feedback: str | None) -> float | None:
  """The reward that a person gives, or None."""
  if feedback != 'ask':
    return {'right': 1.0, 'wrong': 0.0}.get(feedback)
  said = input('Is that right? [y/n, anything else: do not remember] ').strip().lower()
  return {'y': 1.0, 'n': 0.0}.get(said)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status: 0, 1 for no answer or an error, 2 for bad flags."""
  for noisy in ('httpx', 'mcp.client.stdio'):
    logging.getLogger(noisy).setLevel(logging.CRITICAL)
  return command.run(argv, __doc__, Options, ask, errors=(RuntimeError,))


if __name__ == '__main__':
  sys.exit(main(sys.argv))
