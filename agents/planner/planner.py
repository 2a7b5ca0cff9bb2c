"""The agent: a planner that has seen cases, an executor that has tools (Memento, arXiv 2508.16153).

Departs from the released code where it leaves a run unbounded or its end unrecorded: plans are validated, a reply that
is neither plan nor answer is sent back, every loop has a limit, and after the last plan the planner is asked once more
for an answer. Cases are read once a question.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Sequence

from agents.memory import Found, Memory
from agents.planner import prompts
from agents.planner.ask import ask
from agents.planner.context import Group
from agents.planner.episode import Episode, Event, Limits, Subtask, Watch
from agents.planner.executor import execute
from agents.planner.plans import PlanError, final_answer, parse_plan
from agents.toolbox import Functions, Toolbox
from core.serving.client import RequestFailed, Sampling
from core.text import clean


@dataclasses.dataclass(frozen=True)
class Agent:
  """A planner, an executor, tools and optionally a memory.

  Models are `core.serving.client.Endpoint`s, or have its `chat`.
  """

  planner: object
  executor: object
  tools: Toolbox = dataclasses.field(default_factory=Functions)
  memory: Memory | None = None
  limits: Limits = dataclasses.field(default_factory=Limits)
  sampling: Sampling = dataclasses.field(default_factory=lambda: Sampling(max_tokens=15_000))

  def answer(
    self,
    question: str,
    *,
    task_id: str = '',
    attachments: Sequence[str] = (),
    seed: int = 0,
    on_event: Callable[[Event], None] = lambda event: None,
  ) -> Episode:
    """Answers a question; the episode records all errors. Memory is read, not written."""
    question = clean(question)
    task_id = clean(task_id)
    watch = Watch(self.limits, on_event)
    found = []
    if self.memory:
      found = self.memory.read(question, key=task_id)
    for f in found:
      watch.say(
        'case',
        f'Case {f.case.id}, {"success" if f.case.positive else "failure"}, {f.score:.3f}',
        f'{f.case.task}\n{f.case.plan}',
      )
    run = _Run(self, watch, _opening(question, task_id, attachments, found), _seed(seed, task_id or question))
    answer, stop = run.to_the_end()
    watch.say('answer' if stop == 'answered' else 'stop', stop, answer)
    return Episode(
      task_id,
      question,
      answer,
      stop,
      run.plan,
      tuple(f.case.id for f in found),
      self.memory.version() if self.memory else 'none',
      tuple(run.replies),
      tuple(run.subtasks),
      tuple(watch.events),
      watch.prompt_tokens,
      watch.reply_tokens,
      round(watch.seconds, 3),
    )

  def remember(self, episode: Episode, reward: float) -> None:
    """Writes a judged episode to the memory: its final plan, and the outcome for each case it had read."""
    if self.memory:
      used = []
      for number in episode.read:
        with contextlib.suppress(KeyError):  # deleted while the episode ran
          used.append(self.memory.bank.get(number))
      self.memory.write(episode.question, episode.plan, reward, key=episode.task_id, used=used)


def _seed(seed: int, name: str) -> int:
  """30 bits that depend on the arguments alone, so that no order of questions changes an answer."""
  digest = hashlib.sha256(f'{seed}/{name}'.encode()).digest()
  return int.from_bytes(digest[:4]) >> 2


def _opening(question: str, task_id: str, attachments: Sequence[str], found: Sequence[Found]) -> list[Group]:
  turns = [prompts.question_turn(question, task_id, attachments), prompts.cases_turn(found)]
  return [Group(tuple(turn for turn in turns if turn), pinned=True)]


class _Run:
  """One question under way: the history that planner and executor share."""

  def __init__(self, agent: Agent, watch: Watch, history: list[Group], seed: int):
    self.agent = agent
    self.watch = watch
    self.history = history
    self.seed = seed
    self.plan = ''
    self.replies = []
    self.subtasks: list[Subtask] = []

  def to_the_end(self) -> tuple[str, str]:
    """(answer, why it ended)."""
    cycles = self.watch.limits.cycles
    for cycle in range(1, cycles + 2):
      if reason := self.watch.stop():
        return '', reason
      try:
        text = self._ask(cycle)
      except RequestFailed as error:
        self.watch.say('failure', 'planner', str(error))
        return '', self.watch.stop() or 'request_failed'
      answer = final_answer(text)
      if answer is not None:
        return answer, 'answered'
      if cycle <= cycles:
        self._follow(text, cycle)
    return '', 'no_answer' if self.plan else 'no_plan'

  def _ask(self, cycle: int) -> str:
    system = Group(({'role': 'system', 'content': prompts.PLANNER},), pinned=True)
    groups = [system, *self.history]
    reply = ask(self.agent.planner, groups, self.watch, self.agent.sampling, self.seed + 1000 * cycle)
    self.watch.say('planner', f'Planner, round {cycle}', reply.text)
    self.replies.append(reply.text)
    self._add({'role': 'assistant', 'content': reply.text})
    return reply.text

  def _follow(self, text: str, cycle: int) -> None:
    """Carries out the plan of a reply, or says why it is none."""
    try:
      plan = parse_plan(text)
    except PlanError as error:
      self._add(prompts.refused_turn(error))
      return
    self.plan = plan.to_json()
    for number, step in enumerate(plan.steps, 1):
      done = execute(
        self.agent.executor,
        self.agent.tools,
        self.history,
        step,
        cycle,
        self.watch,
        self.agent.sampling,
        self.seed + 100_000 * cycle + 1000 * number,
      )
      self.subtasks.append(done)
      self._add(prompts.result_turn(step.id, done.result))
      if self.watch.stop():
        return
    self._add(prompts.next_turn(last=cycle == self.watch.limits.cycles))

  def _add(self, turn: dict) -> None:
    self.history.append(Group((turn,)))
