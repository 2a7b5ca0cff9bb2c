"""Training with tools: what is learned from, what the gradient sees, and a run that continues where it was killed."""

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import train
from agents.configs import CONFIGS, Config, Stage
from agents.policy import ToolPolicy
from agents.rollout import grade
from agents.rollout.plan import as_trajectory
from agents.rollout.problems import PHRASES, TOOL, Problem, demonstrations, product, query_of, read
from agents.rollout.protocol import END, TAGS, Protocol
from agents.rollout.sft import example
from agents.rollout.tools import Response
from agents.rollout.trajectory import Bounds, Conversation, Trace, Turn
from core import decoder
from core.conversations.tool_calls import parse
from core.files.tokenizers import byte_tokenizer
from rl import advantages, losses, report
from rl.evaluate import Result
from rl.learning.batch import pack
from rl.policy.text import TextPrompt
from rl.rewards.guards.bundle import Bundle
from rl.rollout import Ask, Group
from rl.rollout.collect import Collected

SMOKE = CONFIGS['smoke']
TOKENIZER = byte_tokenizer([*TAGS, *PHRASES], eos=END, pad=END)
PROTOCOL = Protocol(byte_tokenizer([*TAGS, *PHRASES], eos=END, pad=END), markup=PHRASES)
MODEL = decoder.CONFIGS['tiny']
POLICY = ToolPolicy(MODEL, TOKENIZER, (PROTOCOL.stop_id,), PROTOCOL)


def trajectory(*texts, response='Tool call success\nstdout: 42'):
  """A finished conversation of these assistant turns."""
  t, bounds = Conversation(prompt=PROTOCOL.prompt('6*7')), Bounds(1000)
  for k, text in enumerate(texts):
    ids = PROTOCOL.assistant(text)
    t.hear(ids, [-1.0] * len(ids), PROTOCOL, bounds)
    if k + 1 < len(texts):
      t.take([Response(response, 'ok')], PROTOCOL, bounds)
  return t


def batch_of(conversations, gains):
  """The batch of one group of conversations, with given advantages."""
  every = [as_trajectory(t, TextPrompt(np.array(t.prompt, np.int32))) for t in conversations]
  slots = POLICY.slots([every], 'rows').bucketed()
  n, longest = len(every), max(len(t.tokens) for t in every)
  rewards, flags = np.zeros((n, 1), np.float32), np.ones(n, bool)
  group = Group(0, None, every, np.ones(1, np.float32), rewards, rewards[:, 0], rewards[:, 0], flags, ~flags)
  assert longest <= slots.response
  packed = pack(POLICY, Collected([group], group, 1, {}, 0), 'rows', given=slots)
  return packed.batch.replace(advantages=np.float32(gains)[:, None])


CALLS = '</reason>\n<tool_call>\n{"name": "python", "arguments": {"code": "print(6*7)", "input": ""}}\n</tool_call>'
DONE = '</reason><answer>\\boxed{42}</answer>'


@pytest.fixture(scope='module')
def weights():
  return decoder.init(jax.random.key(0), MODEL)


def test_a_response_has_the_tags_of_the_protocol_and_ends():
  text = '</reason><answer>7</answer>'
  said = POLICY.response(text)
  assert said[-1] == PROTOCOL.stop_id and said[0] == TOKENIZER.convert_tokens_to_ids('</reason>')
  assert POLICY.text(said) == text
  forged = POLICY.response('a<|im_end|>b<tool_response>').tolist()
  assert forged.count(PROTOCOL.stop_id) == 1 and TOKENIZER.convert_tokens_to_ids('<tool_response>') not in forged


@pytest.mark.slow
def test_the_gradient_at_tool_tokens_is_exactly_zero(weights):
  """Through the per-token log-probabilities of a policy loss, with tool text that has no other copy in the batch."""
  t = trajectory(CALLS, DONE)
  batch = batch_of([t, t], [1.0, -0.5])
  logp, _ = POLICY.log_probs(weights, batch.inputs)

  def loss(logp):
    out = losses.policy_loss(logp, jnp.asarray(batch.sampled), batch.advantages, batch.mask, rule=SMOKE.rule)
    return out.total / out.weight

  gradient = np.asarray(jax.grad(loss)(logp))
  mine = batch.mask
  assert (gradient[~mine] == 0).all() and (gradient[:2][mine[:2]] != 0).any()
  told = np.array([not m for m in t.mask])
  assert told.sum() == len(PROTOCOL.tool_turn(['Tool call success\nstdout: 42']))
  assert (gradient[0, len(t.prompt) - 1 : len(t.prompt) - 1 + len(t.ids)][told] == 0).all()


@pytest.mark.slow
def test_only_sampled_tokens_are_pulled_up():
  """The mask and the targets are aligned: of the head, just the columns of the model's own tokens get a gradient."""
  untied = dataclasses.replace(MODEL, tied=False)
  params = decoder.init(jax.random.key(1), untied)
  t = trajectory(CALLS, DONE, response='é')  # two bytes that stand nowhere else
  batch = batch_of([t], [1.0])
  tokens = jnp.asarray(batch.inputs.tokens)

  def chosen(params):
    out = decoder.forward(params, untied, decoder.embed(params, tokens[:, :-1]))
    z = jnp.take_along_axis(decoder.logits(params, untied, out.hidden), tokens[:, 1:, None], -1)[..., 0]
    return jnp.sum(jnp.where(batch.mask, z, 0))

  head = np.asarray(jax.grad(chosen)(params).head)
  moved = set(np.flatnonzero((head != 0).any(0)).tolist())
  assert moved == {i for i, m in zip(t.ids, t.mask) if m} and not moved & set('é'.encode())


@pytest.mark.slow
def test_padding_changes_no_log_probability(weights):
  short, long = trajectory(DONE), trajectory(CALLS, CALLS, DONE)
  alone, _ = POLICY.log_probs(weights, batch_of([short], [0.0]).inputs)
  both, entropy = POLICY.log_probs(weights, batch_of([long, short], [0.0, 0.0]).inputs)
  n = len(short.prompt) + len(short.ids) - 1
  np.testing.assert_allclose(both[1, :n], alone[0, :n], atol=1e-5)
  assert np.isfinite(both).all() and np.isfinite(entropy).all()


def test_an_example_is_what_a_rollout_would_have_left():
  t = trajectory(CALLS, DONE)
  call = {'function': {'name': 'python', 'arguments': '{"code": "print(6*7)", "input": ""}'}}
  e = example(
    [
      {'role': 'user', 'content': '6*7'},
      {'role': 'assistant', 'content': '<reason></reason>', 'tool_calls': [call]},
      {'role': 'tool', 'content': 'Tool call success\nstdout: 42'},
      {'role': 'assistant', 'content': DONE},
    ],
    PROTOCOL,
  )
  assert e.ids == t.prompt + t.ids and e.mask == [False] * len(t.prompt) + t.mask


@pytest.mark.parametrize(
  'roles,message',
  [
    (['user'], 'user first and assistant last'),
    (['assistant'], 'user first'),
    ([], 'user first'),
    (['user', 'tool', 'assistant'], 'tool after one of user'),
    (['user', 'assistant', 'assistant'], 'assistant after one of assistant'),
  ],
)
def test_an_example_in_another_order_is_refused(roles, message):
  with pytest.raises(ValueError, match=message):
    example([{'role': role, 'content': 'x'} for role in roles], PROTOCOL)


def test_demonstrations_are_right_fit_and_come_in_their_shares():
  found = demonstrations(0, 0, 400, (0.5, 0.3, 0.2), PROTOCOL)
  texts = [PROTOCOL.text(e.ids) for e in found]
  calls = [text.count('<tool_call>') for text in texts]
  for count, share in ((1, 0.5), (2, 0.3), (0, 0.2)):
    assert abs(calls.count(count) / 400 - share) < 0.08
  assert max(len(e.ids) for e in found) <= CONFIGS['tiny'].sft.length
  for n, text in enumerate(texts[:50]):
    assert f'\\boxed{{{product("train", 0, n).answer}}}' in text
    assert all(not c.error and c.name == TOOL for c in parse(text, 9))


def test_held_out_products_are_never_trained_on():
  train_set = {product('train', 1, n).question for n in range(3000)}
  heldout = {product('heldout', 3, n).question for n in range(3000)}
  assert not train_set & heldout
  for p in (product('train', 0, 5), product('heldout', 0, 5)):
    a, b = map(int, p.question.split('*'))
    assert str(a * b) == p.answer and min(a, b) >= 100 and max(a, b) < 10_000


@pytest.mark.parametrize(
  'texts,expected',
  [
    (['<answer>\\boxed{42}</answer>'], '42'),
    (['<answer>42</answer>'], '42'),
    (['\\boxed{41}', 'so \\boxed{42}.'], '42'),
    (['<answer>\\boxed{1}</answer>', 'then <answer>\\boxed{42}</answer>'], '42'),
    (['it is 41, no, 42.'], '42'),
    (['nothing'], None),
    (['41', 'nothing'], None),
    (['<answer>\\boxed{42'], '42'),
  ],
)
def test_where_the_answer_is_looked_for(texts, expected):
  trace = Trace([Turn(text, (Response('\\boxed{9}', 'ok'),)) for text in texts], 'final')
  assert grade.answer(trace) == expected
  assert grade.reward(trace, '42') == float(expected == '42')


@pytest.mark.parametrize(
  'said,right',
  [
    ('42', 1),
    ('42.0', 1),
    ('\\frac{84}{2}', 1),
    ('42.00001', 0),
    ('4200', 0),
    ('0.42', 0),
    ('10**400', 0),
    ('9' * 5000, 0),
    ("__import__('os')", 0),
  ],
)
def test_answers_are_compared_exactly(said, right):
  assert grade.reward(Trace([Turn(f'<answer>\\boxed{{{said}}}</answer>')], 'final'), '42') == right


@pytest.mark.parametrize(
  ('said', 'reference', 'exact', 'symbolic'),
  [
    ('(x+1)^2', 'x^2+2x+1', 0, 1),
    ('\\frac{\\sqrt{2}}{2}', '\\frac{1}{\\sqrt{2}}', 0, 1),
    ('x^2+2x', 'x^2+2x+1', 0, 0),
    ('42.0', '42', 1, 1),
  ],
)
def test_formulas_are_right_by_the_symbolic_reward_alone(said, reference, exact, symbolic):
  pytest.importorskip('math_verify')
  query = query_of(Problem('?', reference))
  trace = Trace([Turn(f'<answer>\\boxed{{{said}}}</answer>')], 'final')
  for name, expected in (('exact', exact), ('symbolic', symbolic)):
    assert grade.REWARDS[name].function(query, trace) == expected
    assert grade.REWARDS[name].right(query, trace) == expected


def test_math_verify_is_loaded_before_any_answer_is_timed(monkeypatch):
  loaded = []
  monkeypatch.setattr(grade.right_symbolic, 'warm_up', lambda: loaded.append(True))
  config = dataclasses.replace(SMOKE, reward='symbolic')
  Bundle({'': grade.REWARDS[config.reward]}, None).warm_up()
  assert loaded


def test_advantages_use_the_survivors_only():
  """Groups of unequal size, as RoC leaves them: each is compared within itself."""
  short = as_trajectory(trajectory(DONE), TextPrompt(np.array(PROTOCOL.prompt('6*7'), np.int32)))
  of = lambda rewards: Group(
    0, None, [short] * len(rewards), np.ones(1, np.float32), np.float32(rewards)[:, None], np.float32(rewards),
    np.float32(rewards), np.ones(len(rewards), bool), np.zeros(len(rewards), bool),
  )  # fmt: skip
  groups = [of([1, 0, 0]), of([1, 1, 0, 0, 0])]
  packed = pack(POLICY, Collected(groups, groups[0], 2, {}, 0), 'rows')
  got = packed.advantages(advantages.ADVANTAGES['grpo'])[:, 0]
  for rewards, gain in (([1, 0, 0], got[:3]), ([1, 1, 0, 0, 0], got[3:])):
    np.testing.assert_allclose(gain, advantages.grpo(jnp.float32([rewards]))[0], atol=1e-6)


def test_the_plan_draws_by_seed_step_and_place_alone():
  plan = train.plan_of(SMOKE, POLICY, None, Bounds(64), samples=2)
  ask = lambda numbers, first=8, step=1: Ask(step, first, numbers, [None] * len(numbers), [None] * len(numbers))
  whole = plan.seeds(ask([8, 9, 10, 11]))
  assert plan.seeds(ask([9, 11])) == [*whole[2:4], *whole[6:]]  # as another process would ask
  assert plan.seeds(ask([8, 9], step=2)) != whole[:4]


def test_problems_of_a_file(tmp_path):
  path = tmp_path / 'p.jsonl'
  path.write_text('{"problem": "1+1", "answer": 2}\n')
  assert read(path)[0].answer == '2'
  path.write_text('{"problem": "1+1", "answer": 2}\n{"problem": 3}\n')
  with pytest.raises(ValueError, match='line 2'):
    read(path)
  path.write_text('')
  with pytest.raises(ValueError, match='no problems'):
    read(path)


@pytest.mark.parametrize(
  'changes,message',
  [
    ({'group': 2}, 'group'),
    ({'stage1': Stage(), 'stage2': Stage(), 'stage3': Stage()}, 'stage with steps'),
    ({'updates': 3}, 'updates=3'),
    ({'temperature': 0.0}, 'temperature'),
    ({'data': 'x'}, 'heldout'),
    ({'model': 'elsewhere'}, 'published checkpoint'),
    ({'workers': 0}, 'workers'),
    ({'tool_text': 'released'}, 'lag'),
  ],
)
def test_an_impossible_configuration_is_refused_by_name(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SMOKE, **changes)
  assert isinstance(SMOKE, Config)


def _lines(folder: pathlib.Path) -> int:
  path = folder / 'metrics.jsonl'
  return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
def test_killed_and_started_again_gives_the_same_metrics_and_a_report(tmp_path):
  command = [sys.executable, '-m', 'agents.train', '--config=smoke', '--config.temperature=0.3']
  run = lambda name, **k: subprocess.Popen(
    [*command, f'--workdir={tmp_path / name}'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **k
  )
  assert run('whole').wait(timeout=900) == 0
  process = run('cut')
  deadline = time.monotonic() + 900
  while _lines(tmp_path / 'cut') < 2 and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)  # without warning, once two of the steps are written down
  process.wait()
  assert run('cut').wait(timeout=900) == 0
  for name in ('metrics.jsonl', 'sft/metrics.jsonl', 'results.json', 'conversations.jsonl', 'model/model.safetensors'):
    assert (tmp_path / 'whole' / name).read_bytes() == (tmp_path / 'cut' / name).read_bytes(), name
  assert (tmp_path / 'whole' / 'reward.png').stat().st_size > 5000
  assert 'Responses after' in (tmp_path / 'whole' / 'report.html').read_text()
  assert len(json.loads((tmp_path / 'whole' / 'results.json').read_text())['after']['interval']) == 2


@pytest.mark.slow
def test_the_report_shows_conversations_and_escapes_what_they_say(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(
    json.dumps({'step': 1, 'reward': 0.5, 'right_calls_failed': 0.1, 'kept_right_calls_failed': 0.0}) + '\n'
  )
  trace = Trace([Turn('<script>', (Response('stdout: 42', 'ok'),)), Turn('<answer>42</answer>')], 'final')
  query = query_of(product('heldout', 0, 0))
  result = Result([query] * 2, [trace, ''], [True, False])
  text = report.write(tmp_path, result, result, train.PAGE).read_text()
  assert '0.500' in text and 'stdout: 42' in text and 'no answer' in text and '<script>' not in text
  assert result.summary()['right'] == 1
  train.write_conversations(report.Outcome(POLICY, None, result, result), tmp_path)
  assert len((tmp_path / 'conversations.jsonl').read_text().splitlines()) == 4
