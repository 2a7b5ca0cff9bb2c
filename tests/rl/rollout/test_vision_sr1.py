"""Vision-SR1: parsing and rewards of hostile responses, the published generations by their worked example, the plan."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from core import mesh
from core.conversations.rows import Rows
from core.engine.request import Completion
from core.toy import shortcut
from rl import policy as policies
from rl.advantages import Lineage, Scores, resolve
from rl.learning.batch import pack
from rl.policy import Draw
from rl.query import Query
from rl.rewards import Scored
from rl.rollout import Ask
from rl.rollout.collect import Collector, QuerySource
from rl.rollout.vision_sr1 import GENERATIONS, Sr1, TwoPass, VisionSr1, cold_start, prompts, rewards
from rl.tasks import Task

ONE = mesh.make(devices=jax.devices()[:1])
QUERY = Query([{'role': 'user', 'content': '<image>\nSum?'}], answer='8')
GOOD = r'<description>3 5</description> <think>3+5</think> \boxed{8}'
ONCE = r'<think>3+5</think>\boxed{8}'


def scored(first, second=ONCE, **options):
  return rewards.components(QUERY, TwoPass(first, prompts.description(first, **options), second))


HOSTILE = {  # response → (accuracy, format, description)
  'as asked': (GOOD, 1, 1, '3 5'),
  'without blanks': (GOOD.replace('> ', '>').replace(' <', '<'), 1, 1, '3 5'),
  'a description without a closing tag': (r'<description>3 5 <think>3+5</think>\boxed{8}', 1, 0, ''),
  'no description': (ONCE, 1, 0, ''),
  'a trailing period': (GOOD + '.', 1, 0, '3 5'),
  'text before': ('Sure. ' + GOOD, 1, 0, '3 5'),
  'a missing box': ('<description>3 5</description><think>8</think>8', 0, 0, '3 5'),
  'a box that never closes': (r'<description>3 5</description><think>8</think>\boxed{8', 0, 0, '3 5'),
  'nested braces': (r'<description>3 5</description><think>x</think>\boxed{\text{8}}', 1, 1, '3 5'),
  'the last box counts': (GOOD + r' \boxed{9}', 0, 1, '3 5'),  # the released pattern takes it for one box
  'an answer smuggled into the description': (
    r'<description>the answer is 8</description><think>x</think>\boxed{8}',
    1,
    1,
    'the answer is 8',
  ),
  'two descriptions': (r'<description>a</description><description>b</description>\boxed{8}', 1, 0, 'a'),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_a_response_is_scored_as_the_sheet_rules(case):
  text, accuracy, form, described = HOSTILE[case]
  got = scored(text)
  assert (got['accuracy'], got['format'], prompts.description(text)) == (accuracy, form, described)


def test_a_leaky_description_shows_the_whole_response():
  text = r'<description>3 5 <think>3+5</think>\boxed{8}'
  assert prompts.description(text, leaky=True) == text


def test_smuggled_answers_are_counted():
  smuggled = TwoPass('', 'the answer is 8')
  assert rewards.verbatim(QUERY, smuggled) == 1
  assert rewards.verbatim(QUERY, TwoPass('', '18 and 83')) == 0


@pytest.mark.parametrize(
  'second, accuracy, form',
  [
    (ONCE, 1, 1),
    (' ' + ONCE, 1, 0),
    ('so ' + ONCE, 1, 0),
    (ONCE + '.', 1, 0),
    (r'<think>3 +5</think> \boxed{8} ', 1, 1),
    (r'\boxed{8}', 1, 0),
    ('', 0, 0),
  ],
)
def test_the_second_pass_is_not_cleaned(second, accuracy, form):
  got = scored(GOOD, second)
  assert (got['description_accuracy'], got['description_format']) == (accuracy, form)


@pytest.mark.parametrize(
  'box, answer, want',
  [
    ('1/2', '0.5', 1),
    (r'\frac{1}{2}', '0.5', 1),
    ('A', 'a', 1),
    ('(A)', 'A', 1),
    ('3.0', '3', 1),
    ('A. cat', 'A', 0),
    ('None', 'None', 1),
  ],
)
def test_the_grader_knows_the_measured_facts(box, answer, want):
  assert rewards.grade(rf'\boxed{{{box}}}', answer) == want


def test_a_missing_box_is_wrong_even_where_the_answer_is_none():
  assert rewards.grade('no box', 'None') == 0 and rewards.grade(r'\boxed{None', 'None') == 0


ACCURACY = [1, 1, 0, 0, 1, 0, 0, 0]
FORMAT = [1, 1, 1, 0, 1, 1, 0, 1]
DESCRIBED = [1, 0, 1, 0, 1, 0, 0, 1]
DESCRIBED_FORMAT = [1, 1, 1, 1, 1, 0, 1, 1]
COMPONENTS = np.float32([ACCURACY, FORMAT, DESCRIBED, DESCRIBED_FORMAT]).T


def scores_of(made, rows, kind=None):
  """The inputs of an advantage, of one group with these components [G, 4]."""
  values = np.float32(rows)[None]
  shape = values.shape[:2]
  none = np.full(shape, -1)
  lineage = None if kind is None else Lineage(none, none, np.array([kind]))
  return Scores(values, np.float32(made.weights), np.ones(shape, bool), np.ones((*shape, 1), bool), lineage=lineage)


def advantage_of(name, rows, kind=None):
  made = GENERATIONS[name]
  return np.asarray(resolve(made.advantage)(scores_of(made, rows, kind)))[0, :, 0]


def channels():
  """The components of both channels, one after the other, and their kinds."""
  answers, descriptions = COMPONENTS.copy(), COMPONENTS.copy()
  answers[:, 2:] = 0
  descriptions[:, :2] = 0
  return np.concatenate([answers, descriptions]), [0] * 8 + [1] * 8


def test_the_worked_example():
  want = [1.3176, 0.1060, 0.2272, -1.1056, 1.3176, -0.9844, -1.1056, 0.2272]
  np.testing.assert_allclose(advantage_of('c0', COMPONENTS), want, atol=1e-4)
  want = [2.2324, 0.3616, 0.3002, -1.7866, 2.2324, -1.8535, -1.7866, 0.3002]
  np.testing.assert_allclose(advantage_of('c2', COMPONENTS), want, atol=1e-4)
  rows, kind = channels()
  c1 = advantage_of('c1', rows, kind) / 2  # a mean over twice the tokens
  np.testing.assert_allclose(c1[:8], np.where(ACCURACY, 1.2076, -0.7246), atol=1e-4)
  np.testing.assert_allclose(c1[8:], np.where(DESCRIBED, 0.9354, -0.9354), atol=1e-4)
  p2 = advantage_of('p2', rows, kind)
  want = [1.2041, 1.2041, -0.6483, -0.8336, 1.2041, -0.6483, -0.8336, -0.6483]
  np.testing.assert_allclose(p2[:8], want, atol=1e-4)
  want = [0.9337, -0.8882, 0.9337, -0.8882, 0.9337, -1.0704, -0.8882, 0.9337]
  np.testing.assert_allclose(p2[8:], want, atol=1e-4)


def test_the_shortcut_rate_counts_right_answers_without_a_sufficient_description():
  assert rewards.shortcut_rate([1, 1, 0, 0], [1, 0, 1, 0]) == 0.25
  assert rewards.shortcut_rate([0, 0], [0, 0]) == 0


def test_the_planted_shortcut_and_its_judge():
  items = [shortcut.example('train', 0, i) for i in range(300)]
  told = np.mean([item.hint == sum(item.digits) for item in items])
  assert abs(told - shortcut.TOLD) < 0.1
  item = items[0]
  assert shortcut.sufficient(prompts.description(item.solution), item.digits)
  assert not shortcut.sufficient(f'a sum of {item.answer}', item.digits)
  assert rewards.components(Query([], answer=item.answer), item.solution)['format'] == 1


def test_a_description_with_a_placeholder_is_not_filled_in_again():
  (turn,) = prompts.second('{question}', 'Q', 'D={description} Q={question}')
  assert turn['content'] == 'D={question} Q=Q'


def test_the_released_template_asks_for_what_the_format_refuses():
  assert '\n' not in prompts.FIRST_RELEASED and r'\n' in prompts.FIRST_RELEASED
  skeleton = prompts.FIRST_RELEASED.rpartition(r'\n')[2]
  assert scored(skeleton)['format'] == 0 and scored(skeleton[:-1])['format'] == 1
  moved = prompts.instructed(QUERY, 'do', image_last=True).messages[0]['content']
  assert moved == 'Sum?<image>\ndo' and prompts.question(prompts.instructed(QUERY, 'do'), 'do') == 'Sum?'


FIRSTS = (GOOD, r'<description>3 4</description><think>7</think>\boxed{7}', r'no description \boxed{8}')


class Engine:
  """Says FIRSTS to questions, and to a second pass that the sum is what its description adds up to."""

  def __init__(self, policy):
    self.policy, self.waiting, self.drawn = policy, [], []

  def submit(self, request):
    text = self.policy.tokenizer.decode(request.prompt)
    self.drawn.append((request.temperature, request.n))
    if 'Text description' not in text:
      self.waiting += FIRSTS[: request.n]
      return
    described = text.split('Text description: ')[1].split('\n')[0]
    total = sum(map(int, described.split()))
    self.waiting.append(f'<think>{described}</think>\\boxed{{{total}}}')

  def run(self):
    texts, self.waiting = self.waiting, []
    for number, text in enumerate(texts):
      tokens = self.policy.response(text)
      yield Completion(number, tokens, np.zeros(len(tokens), np.float32), np.zeros(len(tokens), np.int32), 'stop')


class Sampler:
  """A scripted policy behind the names that plans use."""

  home = mesh.Share(ONE, ONE)
  longest = 2000

  def __init__(self, policy):
    self.policy, self.engine = policy, Engine(policy)


class Judge:
  """A scorer without processes."""

  knows_right = True

  def __init__(self, generation):
    self.weights = np.float32(GENERATIONS[generation].weights)

  def __call__(self, queries, responses):
    values = [[list(rewards.components(q, r).values()) for r in rs] for q, rs in zip(queries, responses)]
    values = np.float32(values)
    right = np.float32([[rewards.right(q, r) for r in rs] for q, rs in zip(queries, responses)])
    return Scored(rewards.NAMES, self.weights, values, np.ones(right.shape, bool), right, {})


@pytest.fixture(scope='module')
def policy():
  return policies.load('tiny-text', ONE, seed=0)[0]


def collected(policy, generation, **options):
  settings = Sr1(generation, **options)
  task = Task(
    lambda *_: prompts.instructed(Query([{'role': 'user', 'content': 'Sum?'}], answer='8'), settings.instruction)
  )
  plan = VisionSr1(Draw(90), settings, len(FIRSTS))
  sampler = Sampler(policy)
  got = Collector(Judge(generation), 2)(sampler, plan, QuerySource(task, policy, 0, 1000), step=0, start=0)
  return got, sampler.engine.drawn, plan


def test_the_second_pass_rewards_the_description(policy):
  got, drawn, plan = collected(policy, 'c2')
  (first, _) = got.groups
  np.testing.assert_array_equal(first.rewards, [[1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 0, 0]])
  assert drawn == [(1.0, 3), (1.0, 3), *[(0.0, 1)] * 4] and plan.kinds == ()
  leaky, drawn, _ = collected(policy, 'c0')
  assert drawn[-1] == (1.0, 1)
  assert leaky.groups[0].totals.tolist() == pytest.approx([2.0, 0.1, 0.9])


def test_baselines_have_no_second_pass(policy):
  got, drawn, _ = collected(policy, 'no_self_reward')
  assert len(drawn) == 2 and got.groups[0].totals.tolist() == pytest.approx([1.0, 0.1, 0.9])


@pytest.mark.parametrize('targets', ['y2', 'y1_description', 'y1_all'])
def test_a_separate_advantage_trains_its_own_tokens(policy, targets):
  got, _, plan = collected(policy, 'p2', targets=targets)
  group = got.groups[0]
  assert [t.kind for t in group.trajectories] == [0, 0, 0, 1, 1, 1] and plan.kinds == ('answer', 'description')
  np.testing.assert_allclose(group.totals, [1.1, 0.1, 1.0, 1.1, 0.1, 0.0], rtol=1e-6)
  trained = [policy.tokenizer.decode(t.tokens[t.mask]) for t in group.trajectories[3:]]
  if targets == 'y1_description':
    assert trained == ['3 5', '3 4', '']
  elif targets == 'y1_all':
    assert trained == [f'{text}<|im_end|>' for text in FIRSTS]
  else:
    assert trained[:2] == [f'<think>{d}</think>\\boxed{{{n}}}<|im_end|>' for d, n in (('3 5', 8), ('3 4', 7))]
    assert trained[2] == '' and 'Text description' in policy.tokenizer.decode(group.trajectories[3].prompt.tokens)
  packed = pack(policy, got, 'rows', kinds=True)
  gain = packed.advantages(resolve('grpo_by_kind'))
  assert packed.batch.kind[:, 0].tolist() == [0, 0, 0, 1, 1, 1] * 2
  assert abs(gain[:3].sum()) < 1e-5 and abs(gain[3:6].sum()) < 1e-5 and (gain[:2, 0] * gain[3:5, 0] > 0).all()


def test_a_second_pass_that_does_not_fit_is_left_out(policy):
  settings = Sr1('c2')
  sampler = Sampler(policy)
  sampler.longest = 100
  prompt = policy.prompt(QUERY.messages)
  (group,) = VisionSr1(Draw(90), settings, 3)(sampler, Ask(0, 0, [0], [QUERY], [prompt]))
  assert [t.response.second for t in group] == ['', '', '']


@pytest.mark.parametrize(
  'options, message',
  [
    ({'second': '{question}'}, r'expected \{description\}'),
    ({'generation': 'c2', 'targets': 'y2'}, "targets='y2', generation='c2'"),
  ],
)
def test_options_are_checked(options, message):
  with pytest.raises(ValueError, match=message):
    Sr1(**options)


def test_cold_start_records_are_read_and_only_the_answer_is_learned(policy, tmp_path):
  Image.new('RGB', (4, 4)).save(tmp_path / 'a.png')
  records = [
    cold_start.caption_reasoner('3 5', 'Sum?', '3+5', '8'),
    cold_start.see_think('Sum?', '3 5', '3+5', '8', 'a.png'),
    cold_start.reasoning('Sum?', '3+5', '8', 'a.png'),
  ]
  path = tmp_path / 'rows.jsonl'
  path.write_text(''.join(json.dumps(record) + '\n' for record in records))
  rows = Rows(path)
  shown = cold_start.examples(policy, rows)([0, 3])
  assert [policy.text(t.tokens) for t in shown] == [ONCE, ONCE] and all(t.mask.all() for t in shown)
  assert 'Text description: 3 5' in policy.tokenizer.decode(shown[0].prompt.tokens)
  messages, images, _ = rows[1]
  said = messages[-1]['content']
  assert rewards.components(Query([], answer='8'), TwoPass(said))['format'] == 1 and images[0].endswith('a.png')
  path.write_text(json.dumps({'messages': records[0]['messages'][:1]}) + '\n')
  with pytest.raises(ValueError, match='row'):
    cold_start.examples(policy, Rows(path))([0])
