"""Reinforcement learning of a policy that calls a Python tool: GRPO-RoC (rStar2-Agent, arXiv 2508.20722).

  python -m agents.train --workdir=runs/tools [--config=tiny --config.roc=off …]

A tiny language model learns, from scratch, to multiply numbers that it cannot multiply, by writing Python and reading
what it prints: a short supervised phase teaches the format, badly, then reward does the rest. The workdir ends with
metrics.jsonl, TensorBoard events, the reward curve, a page of conversations, and a checkpoint. The same command
continues a run that was stopped.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator

import jax

from agents import policy as policies
from agents.configs import CONFIGS, Config
from agents.rollout.grade import REWARDS
from agents.rollout.plan import Resample, ToolPlan, said
from agents.rollout.problems import demonstration_trajectories, task_of
from agents.rollout.tools import VIEWS, Runner, View, python_tool
from agents.rollout.trajectory import Bounds, Trace
from agents.sandbox import Pool
from agents.service.dispatcher import Dispatcher
from core.launch import job as launch
from core.training import record
from rl.devices import meshes
from rl.evaluate import Evaluation
from rl.learning.schedule import Stage
from rl.learning.supervised import Demonstrations
from rl.loop import run
from rl.policy import Draw, Slots
from rl.report import Outcome, Page
from rl.tasks import HELDOUT_SEED, ROLLOUT_SEED, WARMUP_SEED

HARD_SEED = 4  # stream of the draws that look for hard problems
TRIES = 8  # of each problem, to find the hard ones (arXiv 2508.20722 §4.3)
TOKEN = 'ESPALIER_TOOLS_TOKEN'  # environment variable with the token of `agents.serve_tools`


@contextlib.contextmanager
def tool_runner(config: Config) -> Iterator[Runner]:
  """The Python tool: in a sandbox of this process, or at `config.tools`; ends what it started."""
  with contextlib.ExitStack() as stack:
    runner = Runner({})
    stack.callback(runner.close)
    if config.tools:
      from agents.service.client import Client

      source = Client(config.tools, token=os.environ.get(TOKEN))
    else:
      source = Dispatcher(stack.enter_context(Pool(config.workers, profile=config.profile)))
    stack.callback(lambda: runner.wait(source.close()))
    runner.tools[config.tool] = python_tool(source.run, view_of(config))
    yield runner


def view_of(config: Config) -> View:
  """What the policy sees of a program's result."""
  if config.tool_text == 'released':
    return VIEWS['released']
  return View(stream=config.view, seconds=config.lag is None)


def plan_of(config: Config, policy: policies.ToolPolicy, runner: Runner, bounds: Bounds, **changes) -> ToolPlan:
  """Rollouts in training within these bounds, and with changes those of tries and of evaluation."""
  plan = ToolPlan(
    protocol=policy.protocol,
    runner=runner,
    bounds=bounds,
    draw=config.draw(bounds.response),
    samples=config.sampled,
    seed=config.seed,
    stream=ROLLOUT_SEED,
    lag=config.lag,
  )
  return dataclasses.replace(plan, **changes)


def stages_of(config: Config, policy: policies.ToolPolicy, runner: Runner) -> list[Stage]:
  """The stages of a run, each with its bounds; one that draws from hard problems first tries some."""
  found = []
  for stage in config.stages:
    plan = plan_of(config, policy, runner, stage.bounds)
    tries = None
    if stage.hard:
      tries = dataclasses.replace(plan, samples=TRIES, stream=HARD_SEED)
    found.append(Stage(stage.steps, plan, tries, stage.hard, stage.reset))
  return found


def sections(trace: Trace | str) -> list[tuple[str, str]]:
  """A conversation turn by turn, for the report; nothing of a problem that was not asked."""
  if isinstance(trace, str):
    return []
  found = []
  for turn in trace.turns:
    found.append(('model', turn.text))
    found += [(f'tool: {response.status}', response.text) for response in turn.responses]
  return [*found, ('ended', trace.stop)]


PAGE = Page(
  title='A policy that learned to use a tool',
  answer=said,
  sections=sections,
  panel=(('right_calls_failed', 'all right conversations'), ('kept_right_calls_failed', 'those trained on')),
  panel_label='failed tool calls',
  shown=12,
)


def write_conversations(outcome: Outcome, workdir: pathlib.Path) -> None:
  """Writes conversations.jsonl, every held-out conversation before and after."""
  lines = [
    {
      'when': name,
      'question': query.messages[-1]['content'],
      'reference': query.answer,
      'answer': said(trace),
      'right': bool(right),
      'stop': trace.stop,
      'turns': [{'text': turn.text, 'responses': [[r.status, r.text] for r in turn.responses]} for turn in trace.turns],
    }
    for name, result in (('before', outcome.before), ('after', outcome.after))
    for query, response, right in zip(result.queries, result.responses, result.right)
    for trace in [Trace() if isinstance(response, str) else response]  # a problem that was too long was not asked
  ]
  text = ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
  record.replace(workdir / 'conversations.jsonl', text)


def main(config: Config, workdir: pathlib.Path) -> dict:
  """Trains, evaluates and reports; returns the contents of results.json."""
  place, _ = meshes(config)
  policy, weights = policies.load(config.model, config.tool, place, seed=config.seed)
  shares = (config.sft.calls, config.sft.slips, config.sft.guesses)
  examples = demonstration_trajectories(policy.protocol, config.seed * 16 + WARMUP_SEED, shares)
  every = max(config.sft.steps // 4, 1)
  with tool_runner(config) as runner:
    widest = Draw(config.bounds.response, config.eval_temperature)
    answers = plan_of(config, policy, runner, config.bounds, samples=1, draw=widest, stream=HELDOUT_SEED)
    outcome = run(
      (policy, weights),
      task_of(config.data, config.heldout, config.seed),
      workdir=workdir,
      rewards=REWARDS[config.reward],
      rollout=stages_of(config, policy, runner),
      max_new=config.bounds.response,
      layout='rows',
      select=Resample(config.roc, config.group, config.seed),
      evaluation=Evaluation(answers, queries=config.eval_problems, glance=config.eval_problems // 8),
      supervision=config.sft,
      demonstrations=Demonstrations(examples, 'rows', Slots(0, config.sft.length, 0), 'sft', every),
      page=PAGE,
      claim=config,
      config=config,
    )
  if jax.process_index() == 0:
    write_conversations(outcome, workdir)
  return outcome.results


if __name__ == '__main__':
  launch.run(main, CONFIGS, default='tiny')
