"""The planner-executor loop under models and tools that misbehave."""

import contextlib
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.memory import CaseBank, Memory, Reading
from agents.planner import context, plans, trace
from agents.planner.context import Group
from agents.planner.episode import Limits
from agents.planner.planner import Agent
from agents.run import save
from agents.toolbox import Functions, Observation, shortened
from core.serving.client import Call, ContextTooLong, Endpoint, Reply, RequestFailed, Retry
from tests.bench.chat_server import serve

PLAN = '{"plan": [{"id": 1, "description": "add two numbers"}]}'


class Script:
  """A model that says what a list says."""

  def __init__(self, replies):
    self.replies, self.seen = replies, []

  def chat(self, messages, sampling, seed, tools=(), *, seconds=float('inf')):
    self.seen.append([dict(m) for m in messages])
    reply = self.replies[min(len(self.seen), len(self.replies)) - 1]  # the last one for ever
    if isinstance(reply, Exception):
      raise reply
    return reply if isinstance(reply, Reply) else Reply(reply)


def add(a, b):
  """Adds."""
  return str(a + b)


TOOLS = Functions({'add': ({'type': 'object', 'properties': {}}, add)})
call = lambda name, arguments, key='c': Call(key, name, arguments)
calls = lambda *c: Reply('', calls=tuple(c))


def test_a_question_goes_through_plan_tool_result_and_answer():
  planner = Script([f'Here it is:\n```json\n{PLAN}\n```', 'FINAL ANSWER: 5'])
  executor = Script([calls(call('add', '{"a": 2, "b": 3}')), 'It is 5.'])
  episode = Agent(planner, executor, TOOLS).answer('What is 2 + 3?', task_id='q1', attachments=['a.csv'])
  assert (episode.answer, episode.stop) == ('5', 'answered')
  assert episode.subtasks[0].result == 'It is 5.'
  assert [(c.name, c.result, c.failed) for c in episode.subtasks[0].calls] == [('add', '5', False)]
  first = planner.seen[0]
  assert [m['role'] for m in first] == ['system', 'user'] and first[1]['content'].endswith('q1\nAttached file: a.csv')
  assert [m['content'] for m in planner.seen[1][3:4]] == ['Task 1 result: It is 5.']
  assert [m['role'] for m in executor.seen[1][-3:]] == ['user', 'assistant', 'tool']
  assert executor.seen[1][-1] == {'role': 'tool', 'tool_call_id': 'c', 'content': '5'}
  json.dumps(episode.to_json())


@pytest.mark.parametrize(
  ('wrong', 'told'),
  [
    (call('divide', '{}'), "no tool called 'divide'; the tools are add"),
    (call('add', '{"a": '), 'not JSON'),
    (call('add', '[1]'), 'expected a JSON object'),
    (call('add', '{"a": 1}'), 'TypeError'),
    (call('add', '[' * 10**5), 'nested too deeply'),
    (call('add', '{"a": 1, "b": "x"}'), 'TypeError'),
  ],
)
def test_failures_of_tools_are_observations(wrong, told):
  executor = Script([calls(wrong, call('add', '{"a": 2, "b": 3}', '')), 'done'])
  episode = Agent(Script([PLAN, 'FINAL ANSWER: 5']), executor, TOOLS).answer('q')
  assert episode.stop == 'answered'
  bad, good = episode.subtasks[0].calls
  assert bad.failed and told in bad.result and not good.failed
  assistant, *results = executor.seen[1][-3:]
  assert len(assistant['tool_calls']) == 2
  assert [r['tool_call_id'] for r in results] == [c['id'] for c in assistant['tool_calls']] == ['c', 'call_1']
  assert results[0]['content'].startswith('Error: ')


@pytest.mark.parametrize(
  ('planner', 'executor', 'limits', 'stop', 'subtask'),
  [
    ([PLAN], ['done'], {}, 'no_answer', 'done'),
    (['I shall think about it'], ['done'], {}, 'no_plan', None),
    ([PLAN], [calls(call('add', '{"a": 1, "b": 1}'))], {}, 'no_answer', 'steps'),
    ([PLAN], [''], {}, 'no_answer', 'empty'),
    ([PLAN], [RequestFailed('gone')], {}, 'no_answer', 'request_failed'),
    ([RequestFailed('gone')], ['done'], {}, 'request_failed', None),
    ([PLAN], [Reply('', calls=(call('add', '{}'),), prompt_tokens=600)], {'tokens': 1000}, 'tokens', 'tokens'),
    ([PLAN], ['done'], {'seconds': 1e-9}, 'time', None),
  ],
)
def test_every_run_ends_and_says_why(planner, executor, limits, stop, subtask):
  planner, executor = Script(planner), Script(executor)
  episode = Agent(planner, executor, TOOLS, limits=Limits(**{'steps': 5, **limits})).answer('q')
  assert (episode.stop, episode.answer) == (stop, '')
  assert episode.subtasks[-1].stop == subtask if subtask else not episode.subtasks
  assert len(planner.seen) <= 4 and len(executor.seen) <= 15


def test_too_many_calls_at_once_are_cut_and_said():
  executor = Script([calls(*[call('add', '{"a": 1, "b": 1}', str(i)) for i in range(50)]), 'done'])
  episode = Agent(Script([PLAN, 'FINAL ANSWER: 2']), executor, TOOLS).answer('q')
  assert len(episode.subtasks[0].calls) == 8
  assert executor.seen[1][-1]['content'].startswith('42 more calls')


def test_an_executor_cannot_write_the_answer():
  episode = Agent(Script([PLAN, 'FINAL ANSWER: 5']), Script(['FINAL ANSWER: 6']), TOOLS).answer('q')
  assert episode.answer == '5'


def test_no_memory_an_empty_bank_and_k_0_ask_exactly_the_same():
  bank = CaseBank(':memory:')
  filled = CaseBank(':memory:')
  filled.add('q', PLAN, 1)
  seen = []
  for memory in (
    None,
    Memory(bank),
    Memory(filled, Reading(k=0)),
    Memory(filled, Reading('none')),
    Memory(filled, Reading(exclude_own=True)),
  ):
    planner, executor = Script([PLAN, 'FINAL ANSWER: 5']), Script(['done'])
    Agent(planner, executor, TOOLS, memory).answer('q')
    seen.append((planner.seen, executor.seen))
  assert all(s == seen[0] for s in seen)
  planner = Script([PLAN, 'FINAL ANSWER: 5'])
  episode = Agent(planner, Script(['done']), TOOLS, Memory(filled)).answer('q')
  assert '1. add two numbers' in planner.seen[0][2]['content'] and episode.read == (1,)


def test_a_judged_episode_is_remembered_once_with_its_uses():
  bank = CaseBank(':memory:')
  bank.add('other question', PLAN, 1, key='o')
  agent = Agent(Script([PLAN, 'FINAL ANSWER: 5']), Script(['done']), TOOLS, Memory(bank, run='r'))
  episode = agent.answer('question', task_id='t')
  for _ in range(2):
    agent.remember(episode, 1.0)
  assert len(bank) == 2 and len(bank.uses()) == 1
  case = bank.cases()[1]
  assert (case.key, case.run, plans.parse_plan(case.plan).steps[0].description) == ('t', 'r', 'add two numbers')


@pytest.mark.parametrize(
  'text',
  [
    '',
    '{',
    '{"plan": []}',
    '{"plan": {}}',
    '{"plan": [{"id": 1}]}',
    '{"plan": [1]}',
    '[' * 10**5,
    '{' * 10**5,
    '{"a":' * 30_000,
    '{"plan": [{"description": " "}]}',
    json.dumps({'plan': [{'description': 'x'}] * 21}),
    json.dumps({'plan': [{'description': 'x' * 4001}]}),
    'x' * 200_001,
    '__import__("os").system("true")',
  ],
)
def test_texts_without_a_plan_are_refused(text):
  with pytest.raises(plans.PlanError):
    plans.parse_plan(text)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300), st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=20))
def test_any_text_gives_a_plan_or_a_plan_error_and_plans_survive_wrapping(noise, descriptions):
  with contextlib.suppress(plans.PlanError):
    plans.parse_plan(noise)
  plan = plans.Plan(tuple(plans.Step(i, d.strip()) for i, d in enumerate(descriptions)))
  assert plans.parse_plan('{not this} ' + plan.to_json() + '}') == plan


@pytest.mark.parametrize(
  ('text', 'answer'),
  [
    ('  **FINAL ANSWER: 42**', '42'),
    ('final answer:   a, b', 'a, b'),
    ('The results agree.\n\nFINAL ANSWER: 42', '42'),
    ('```\nFINAL ANSWER: 42\n```', '42'),
    ('"FINAL ANSWER: 42"', '42'),
    ('**FINAL ANSWER:** 42', '42'),
    ('**FINAL ANSWER: 42**, since 6 times 7 is 42', '42'),
    ('FINAL ANSWER: **42** as computed', '42'),
    ('**FINAL ANSWER:**\n\n**42**', '42'),
    ('FINAL ANSWER:\n```\n42\n```', '42'),
    ('FINAL ANSWER: 3\nNo, I slipped.\nFINAL ANSWER: 4', '4'),
    ('FINAL ANSWER: 3 * 4', '3 * 4'),
    ('### **Final Answer**: 42', '42'),
    ('**FINAL ANSWER**: **42**, as computed', '42'),
    ('__Final answer__ : 42', '42'),
    ('\ufeffFINAL  ANSWER： 42', '42'),
    ('| FINAL ANSWER: 42 |', '42'),
    ('FINAL ANSWER: "Ulysses"', '"Ulysses"'),
    ('The FINAL ANSWER: 42', None),
    ('FINAL ANSWER:', None),
    ('FINAL ANSWER: **', None),
  ],
)
def test_a_final_answer_is_read_from_the_last_line_that_begins_with_the_mark(text, answer):
  assert plans.final_answer(text) == answer


# Any character, lone surrogates included, JSON that escapes them, and nesting beyond every limit.
TEXTS = st.text(st.characters(), max_size=40) | st.sampled_from(
  ['\ud800', '"\\ud800"', '\0', '\x1b[2J', '[' * 100_000, '{"a":' * 100_000, PLAN, 'FINAL ANSWER: \udfff']
)
FIELDS = st.sampled_from(
  ['choices', 'message', 'content', 'tool_calls', 'function', 'name', 'arguments', 'id', 'error', 'code', 'usage']
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
  LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(FIELDS | TEXTS, v, max_size=4), max_leaves=8
)
PLANS = TEXTS.map(lambda text: json.dumps({'plan': [{'id': 1, 'description': text}]}))
ARGUMENTS = TEXTS.map(lambda text: json.dumps({'text': text})) | TEXTS
WRITTEN = ARGUMENTS.map(lambda text: f'<tool_call>{{"name": "echo", "arguments": {text}}}</tool_call>')
CALLS = ARGUMENTS.map(lambda text: [{'function': {'name': 'echo', 'arguments': text}}])
MESSAGES = st.fixed_dictionaries({'content': TEXTS | PLANS | WRITTEN}) | st.fixed_dictionaries(
  {'content': TEXTS, 'tool_calls': CALLS | VALUES}
)
completion = lambda message: {'choices': [{'message': message}]}
BODIES = (TEXTS | VALUES).map(lambda value: {'error': value}) | VALUES.map(completion) | VALUES
HUGE = completion({'content': 'x' * 10_000_000})
STATUSES = st.sampled_from([200, 200, 302, 404, 429, 500])
REPLIES = (
  st.tuples(st.just(200), MESSAGES.map(completion).map(json.dumps))
  | st.tuples(STATUSES, BODIES.map(json.dumps) | st.just(json.dumps(HUGE)))
  | st.tuples(STATUSES, st.text(max_size=60))
)
FIRST = (200, json.dumps(completion({'content': PLAN})))


class Unkind:
  """A tool that returns what it is given, with a lone surrogate, or raises it, and sometimes ten megabytes."""

  def schemas(self):
    return [{'function': {'name': 'echo'}}]

  def call(self, name, arguments, timeout):
    text = str(arguments.get('text')) + '\udc00'
    if len(text) % 3 == 0:
      raise RuntimeError(text)
    return Observation(text if len(text) % 3 == 1 else text * (10_000_000 // len(text)))


@pytest.mark.slow
def test_every_episode_ends_with_a_readable_trace_whatever_a_server_or_a_tool_sends(tmp_path):
  sent = []

  def ended(replies: list, question: str) -> None:
    sent[:] = [(status, text.encode('utf-8', 'surrogatepass')) for status, text in reversed([FIRST, *replies])]
    episode = Agent(model, model, Unkind(), limits=Limits(cycles=2, steps=3)).answer(question)
    save(episode, tmp_path)
    assert json.loads((tmp_path / 'episode.json').read_text('utf-8'))['stop'] == episode.stop
    assert f'<td>{episode.stop} after' in (tmp_path / 'trace.html').read_text('utf-8')
    printed = io.TextIOWrapper(io.BytesIO(), 'utf-8')
    for event in episode.events:
      trace.Printer(printed)(event)

  with serve(lambda number, body: sent.pop() if len(sent) > 1 else sent[0]) as (url, _):
    model = Endpoint(url, 'm', retry=Retry(attempts=2, first=0.0, longest=0.0))
    settings(max_examples=150, deadline=None)(given(st.lists(REPLIES, min_size=1, max_size=5), TEXTS)(ended))()


def test_calls_in_the_text_are_carried_out_and_answered_in_the_text():
  good = '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>'
  executor = Script([f'Let me add.\n{good}\n<tool_call>{{"name": </tool_call>', 'It is 5.'])
  episode = Agent(Script([PLAN, 'FINAL ANSWER: 5']), executor, TOOLS).answer('q')
  added, unread = episode.subtasks[0].calls
  assert (added.result, added.failed) == ('5', False)
  assert unread.failed and 'could not be read' in unread.result
  said, told = executor.seen[1][-2:]
  assert said == {'role': 'assistant', 'content': executor.replies[0]} and told['role'] == 'user'
  assert told['content'].startswith('<tool_response>\n5\n</tool_response>\n<tool_response>\nError: ')


def test_turns_that_a_server_finds_too_long_are_trimmed_until_they_fit():
  class Small(Script):
    def chat(self, messages, sampling, seed, tools=(), *, seconds=float('inf')):
      if sum(len(m['content']) for m in messages) > 6000:
        raise ContextTooLong('too long', 400)
      return super().chat(messages, sampling, seed, tools)

  long = Functions({'read': ({'type': 'object'}, lambda: 'x' * 3000)})
  executor = Small([calls(call('read', '{}')), calls(call('read', '{}')), calls(call('read', '{}')), 'done'])
  episode = Agent(Script([PLAN, 'FINAL ANSWER: 5']), executor, long).answer('q')
  assert episode.stop == 'answered' and episode.subtasks[0].stop == 'done'
  pinned = Agent(Script([PLAN]), Small(['done']), long, limits=Limits(cycles=1)).answer('q' * 10_000)
  assert pinned.subtasks[0].stop == 'request_failed'


def test_trimming_keeps_pins_and_pairs_and_drops_the_oldest():
  turn = lambda text: {'role': 'user', 'content': text}
  pair = lambda i: Group((turn(f'call {i}' + 'x' * 400), turn(f'result {i}' + 'y' * 400)))
  groups = [Group((turn('system'),), True), *[pair(i) for i in range(5)], Group((turn('task'),), True), pair(9)]
  got = [t['content'][:8] for t in context.trim(groups, 700)]
  assert got == ['system', 'call 3xx', 'result 3', 'call 4xx', 'result 4', 'task', 'call 9xx', 'result 9']
  assert [t['content'] for t in context.trim(groups, 1)] == ['system', 'task']


def test_long_observations_keep_head_and_tail():
  text = shortened('a' * 50_000 + 'b' * 50_000, 1000)
  assert text.startswith('a' * 750) and text.endswith('b' * 250) and '99000 of 100000' in text and len(text) < 1100


def test_tools_run_side_by_side_and_answers_keep_their_order():
  import threading

  barrier = threading.Barrier(3, timeout=10)

  class Slow:
    def schemas(self):
      return [{'function': {'name': 'wait'}}]

    def call(self, name, arguments, timeout):
      barrier.wait()
      return Observation(str(arguments['n']))

  executor = Script([calls(*[call('wait', f'{{"n": {i}}}', str(i)) for i in range(3)]), 'done'])
  episode = Agent(Script([PLAN, 'FINAL ANSWER: x']), executor, Slow()).answer('q')
  assert [c.result for c in episode.subtasks[0].calls] == ['0', '1', '2']
