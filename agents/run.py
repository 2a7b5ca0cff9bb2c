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

from absl import flags

from core.launch import command

SERVERS = ('python', 'documents', 'crawl', 'search')


def define(values: flags.FlagValues) -> None:
  """The program's flags."""
  text = lambda name, default, meaning: flags.DEFINE_string(name, default, meaning, flag_values=values)
  number = lambda name, default, meaning, low: flags.DEFINE_integer(name, default, meaning, low, flag_values=values)
  text(
    'model',
    None,
    'who plans and, without --executor, carries out: the URL of an OpenAI-compatible server up to and including /v1',
  )
  text('model_name', '', 'the model to ask for there; by default the first it lists')
  text('executor', None, 'the URL of another model to carry out tasks')
  text('executor_name', '', 'the model to ask for there')
  text('key_env', 'OPENAI_API_KEY', 'environment variable with the key of the servers')
  flags.DEFINE_float('timeout', 600.0, 'seconds for one reply of a model', 0.1, flag_values=values)
  flags.DEFINE_list('tools', [], f'servers of ours to start: {", ".join(SERVERS)}', flag_values=values)
  text('mcp', None, 'file of further MCP servers, {"mcpServers": {name: {"command", "args"} or {"url"}}}')
  text('searx', None, 'address of a SearxNG instance, for --tools=search')
  text('corpus', None, 'JSON-lines file to search instead, {"title", "text", "url"} a line')
  flags.DEFINE_multi_string('attach', [], 'file that belongs to the question; may be repeated', flag_values=values)
  text('bank', None, 'case bank to read from and, with --feedback, to write to')
  text('encoder', None, 'folder of a BERT or RoBERTa sentence encoder; by default words are hashed')
  flags.DEFINE_enum('read', 'cosine', ['none', 'random', 'cosine', 'q'], 'how cases are chosen', flag_values=values)
  text('selector', None, 'folder of a trained selector, for --read=q')
  number('k', 4, 'how many cases', 0)
  text('task_id', '', 'the id of the question')
  flags.DEFINE_enum(
    'feedback', None, ['ask', 'right', 'wrong'], 'store the finished task as a case', flag_values=values
  )
  number('cycles', 3, 'most plans', 1)
  number('steps', 30, 'most replies of the executor to one task', 1)
  flags.DEFINE_float('seconds', 3600.0, 'most seconds for the question', 0.1, flag_values=values)
  flags.DEFINE_float('temperature', 0.0, 'of sampling', 0.0, flag_values=values)
  number('seed', 0, 'of sampling', 0)
  text('out', 'runs/agent', 'folder for trace.html and episode.json')
  flags.DEFINE_bool('help', False, 'show this', short_name='h', flag_values=values)


def check(f: flags.FlagValues, rest: Sequence[str]) -> str:
  """The question. Raises flags.Error, in one line, for what cannot be."""
  if len(rest) != 1 or not rest[0].strip():
    raise flags.Error(f'{len(rest)} questions: expected one, in quotes; see --help')
  if not f.model:
    raise flags.Error('--model=URL is needed; see --help')
  for name in ('model', 'executor'):
    if f[name].value and not f[name].value.startswith(('http://', 'https://')):
      raise flags.Error(f'--{name}={f[name].value}: expected a URL (http://… or https://…)')
  if unknown := set(f.tools) - set(SERVERS):
    raise flags.Error(f'--tools={",".join(sorted(unknown))}: expected some of {", ".join(SERVERS)}')
  if 'search' in f.tools and bool(f.searx) == bool(f.corpus):
    raise flags.Error('--tools=search needs one of --searx and --corpus')
  if f.attach and 'documents' not in f.tools:
    raise flags.Error('--attach: add documents to --tools, or nothing can read the file')
  if f.read == 'q' and not f.selector:
    raise flags.Error('--read=q needs --selector=FOLDER')
  if f.feedback and not f.bank:
    raise flags.Error('--feedback needs --bank, the file to remember in')
  if f.feedback == 'ask' and not sys.stdin.isatty():
    raise flags.Error('--feedback=ask needs a terminal to ask on')
  return rest[0]


def servers(f: flags.FlagValues, folder: Path) -> dict:
  """The MCP servers that the flags ask for; `folder` holds the attached files."""
  from mcp import StdioServerParameters

  from agents.mcp import read_config

  source = f'--searx={f.searx}' if f.searx else f'--corpus={f.corpus and os.path.abspath(f.corpus)}'
  options = {'documents': [f'--root={folder}'], 'search': [source]}
  # A server imports what this process imports, and is told nothing else of its environment.
  env = {'PYTHONPATH': os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[1])]))}
  found = {
    name: StdioServerParameters(
      command=sys.executable, env=env, args=['-m', f'agents.mcp.servers.{name}', *options.get(name, [])]
    )
    for name in f.tools
  }
  others = read_config(f.mcp) if f.mcp else {}
  if both := found.keys() & others.keys():
    raise ValueError(f'{f.mcp}: the servers {sorted(both)} are named like those of --tools')
  return found | others


def open_memory(f: flags.FlagValues, stack: contextlib.ExitStack):
  """The memory that the flags ask for, or None."""
  if not f.bank:
    return None
  from agents.memory import CaseBank, Memory, Reading, SentenceEncoder, selector

  bank = stack.enter_context(CaseBank(f.bank, SentenceEncoder.load(f.encoder) if f.encoder else None))
  config, state = selector.load(f.selector) if f.selector else (None, None)
  return Memory(bank, Reading(f.read, k=f.k, seed=f.seed), config=config, state=state, online=False, run='agents.run')


def ask(f: flags.FlagValues, question: str) -> int:
  """Everything after the flags; returns 0 when there is an answer. Raises ValueError, OSError or RuntimeError."""
  from agents.planner import trace
  from agents.planner.episode import Limits
  from agents.planner.planner import Agent
  from agents.toolbox import Functions
  from core.serving.client import Endpoint, Sampling
  from core.training.record import replace

  with contextlib.ExitStack() as stack:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='agent-')))
    names = [shutil.copy(path, folder).rpartition(os.sep)[2] for path in f.attach]
    if len(set(names)) < len(names):
      raise ValueError(f'--attach: two files have one name among {names}')
    memory = open_memory(f, stack)
    key = os.environ.get(f.key_env, '')
    planner = Endpoint(f.model, f.model_name, key=key, timeout=f.timeout)
    executor = Endpoint(f.executor, f.executor_name, key=key, timeout=f.timeout) if f.executor else planner
    tools = Functions()
    if wanted := servers(f, folder):
      from agents.mcp import McpTools

      tools = stack.enter_context(McpTools(wanted))
    agent = Agent(
      planner,
      executor,
      tools,
      memory,
      Limits(cycles=f.cycles, steps=f.steps, seconds=f.seconds),
      Sampling(temperature=f.temperature, max_tokens=15_000),
    )
    episode = agent.answer(question, task_id=f.task_id, attachments=names, seed=f.seed, on_event=trace.Printer())
    out = Path(f.out)
    trace.write(episode, out / 'trace.html')
    replace(out / 'episode.json', json.dumps(dataclasses.asdict(episode), ensure_ascii=False, indent=2) + '\n')
    print(episode.answer if episode.stop == 'answered' else f'(no answer: {episode.stop})')
    print(f'trace: {out / "trace.html"}', file=sys.stderr)
    if (reward := judged(f.feedback)) is not None:
      agent.remember(episode, reward)
    return 0 if episode.stop == 'answered' else 1


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
  return command.run(argv, __doc__, define=define, check=check, work=ask, mendable=(ValueError, OSError, RuntimeError))


if __name__ == '__main__':
  sys.exit(main(sys.argv))
