"""SvS: bands, extraction, and the bookkeeping of a whole step against a script of its own."""

import collections
import random
import statistics

import jax
import numpy as np
import pytest

from core import mesh
from core.engine.request import Completion
from core.toy import sums
from rl import policy as policies
from rl.advantages import ADVANTAGES, grpo
from rl.learning.batch import pack
from rl.policy import Draw
from rl.query import Query
from rl.rewards import Scored
from rl.rollout.collect import Collector, QuerySource
from rl.rollout.svs import KINDS, Svs, Synthesis, extract, prompts
from rl.tasks import TASKS, Task

ONE = mesh.make(devices=jax.devices()[:1])
G, WRITTEN, PROBLEMS = 4, 3, 12
TEMPLATE = 'vary <response>{response}</response>'


def test_bands_are_inclusive_and_exact():
  s = Synthesis()
  assert [s.half_solved(n, 8) for n in range(9)] == [False, True, True, True, True, False, False, False, False]
  assert [s.rewarded(n, 8) for n in range(9)] == [False, True, True, True, True, True, False, False, False]
  assert [s.rewarded(n, 4) for n in range(5)] == [False, True, True, False, False]
  thirds = Synthesis(low=0.3, high=0.3)
  assert [n for n in range(11) if thirds.half_solved(n, 10)] == [3]  # 3/10 is not 0.3 in floating point


def test_the_worked_group():
  rewards = [float(c is not None and Synthesis().rewarded(c, 8)) for c in (0, 1, 3, 5, 6, 8, None, 4)]
  assert rewards == [0, 1, 1, 1, 0, 0, 0, 1]
  np.testing.assert_allclose(np.abs(grpo(np.float32([rewards]))[0]), 0.935413, atol=1e-6)


FENCED = {
  'labelled': ('x\n```text\n p 1\n```\n', 'p 1'),
  'two': ('```text\none\n```\n```text\ntwo\n```', 'one'),
  'unlabelled': ('```\nplain\n```', 'plain'),
  'a label first': ('```\nplain\n```\n```text\nchosen\n```', 'chosen'),
  'another language': ('```python\nx = 1\n```', None),
  'none': ('a problem without a fence', None),
  'never closed': ('```text\nendless', None),
  'closed on the same line': ('```text\nendless```', None),
  'the next one closes it': ('```text\nendless\n```python\nx\n```', None),
  'empty': ('```text\n\n```', None),
  'blank': ('```text\n   \n```', None),
  'a decoy in thoughts': ('<think>```text\ndecoy\n```</think>\n```text\nreal\n```', 'real'),
  'only in thoughts': ('<think>\n```text\ndecoy\n```\n</think> done', None),
}


@pytest.mark.parametrize('case', FENCED)
def test_a_variant_is_what_a_closed_fence_holds(case):
  text, want = FENCED[case]
  assert extract(text) == want


def test_a_variant_that_boxes_its_answer_leaks():
  assert prompts.leaks(r'Find x. (\boxed{ 12 })', '12') and not prompts.leaks(r'\boxed{3}', '12')
  assert not prompts.leaks('12', '12')


@pytest.mark.parametrize(
  'options, message',
  [
    ({'variants': 1}, 'variants=1'),
    ({'keep': 0.0}, 'keep=0.0'),
    ({'template': 'no place'}, r'expected \{response\}'),
    ({'low': 0.6}, 'low=0.6'),
  ],
)
def test_options_are_checked(options, message):
  with pytest.raises(ValueError, match=message):
    Synthesis(**options)


def test_sums_are_graded_and_vary_with_the_same_answer():
  questions = {split: {sums.example(split, 1, i).question for i in range(200)} for split in sums.SPLITS}
  assert not questions['train'] & questions['heldout']
  lengths = {question.count('+') + 1 for question in questions['train']}
  assert lengths == set(range(sums.LEAST, sums.MOST + 1))
  for index in range(100):
    item = sums.example('train', 1, index)
    varied = sums.variant(item.solution, index)
    assert sorted(varied) == sorted(item.question)
    assert varied != item.question or len(set(item.terms)) == 1
  query = TASKS['sums'].query('train', 0, 3)
  assert query.solution.endswith(f'\\boxed{{{query.answer}}}')


def said(content: str, place: int) -> str:
  """What the scripted policy says to a prompt, of any kind; a function of the prompt and the place in its group."""
  rng = random.Random(f'{content}|{place}')
  filler = 'x' * rng.randrange(12)
  if not content.startswith('vary'):
    ability = random.Random(content).random()  # problems of all difficulties
    answer = ORIGINS[content] if rng.random() < ability else 'wrong'
    return f'{filler}[{answer}]'
  problem = f'problem {rng.randrange(1000)} {"long " * rng.randrange(4)}'.strip()
  ORIGINS[problem] = content.split('[')[1].split(']')[0]
  shape = rng.randrange(5)
  if shape == 0:
    return f'{problem} without a fence {filler}'
  return '```text\n' if shape == 1 else f'{filler}\n```text\n{problem}\n```'


ORIGINS = {f'question {n}': f'a{n}' for n in range(100)}  # problem → the answer of its origin


class Engine:
  """Answers requests by `said`."""

  def __init__(self, policy):
    self.policy, self.waiting = policy, []

  def submit(self, request):
    text = self.policy.tokenizer.decode(request.prompt)
    content = text.split('<|im_start|>user\n')[1].split('<|im_end|>')[0]
    self.waiting += [said(content, place) for place in range(request.n)]

  def run(self):
    texts, self.waiting = self.waiting, []
    for number, text in enumerate(texts):
      tokens = self.policy.response(text)
      yield Completion(number, tokens, np.zeros(len(tokens), np.float32), np.zeros(len(tokens), np.int32), 'stop')


class Sampler:
  """A scripted policy behind the names that plans use."""

  home = mesh.Share(ONE, ONE)
  longest = 400

  def __init__(self, policy):
    self.policy, self.engine = policy, Engine(policy)


class Judge:
  """Right is the answer in brackets."""

  knows_right = True

  def __call__(self, queries, responses):
    right = np.array([[f'[{q.answer}]' in r for r in rs] for q, rs in zip(queries, responses)], np.float32)
    return Scored(('reward',), np.ones(1, np.float32), right[..., None], np.ones(right.shape, bool), right, {})


def query(split, seed, index):
  return Query([{'role': 'user', 'content': f'question {index}'}], answer=f'a{index}')


def step(synthesis, policy):
  """A rollout of the plan on the scripted policy."""
  plan = Svs(Draw(60), synthesis, G, seed=3)
  collector = Collector(Judge(), PROBLEMS)
  return collector(Sampler(policy), plan, QuerySource(Task(query), policy, 0, 300), step=5, start=20)


def rows_of(collected, policy):
  """Counter of (kind, prompt, reward, advantage, tokens that count) of all rows that are trained on."""
  packed = pack(policy, collected, 'shared', kinds=True)
  gain = packed.advantages(ADVANTAGES['grpo'])
  rows = collections.Counter()
  for b, group in enumerate(collected.groups):
    for g, t in enumerate(group.trajectories):
      content = policy.tokenizer.decode(t.prompt.tokens).split('user\n')[1].split('<|im_end|>')[0]
      assert packed.batch.kind[b, g] == t.kind
      counted = int(packed.batch.mask[b, g].sum())
      rows[KINDS[t.kind], content, float(group.totals[g]), round(float(gain[b, g, 0]), 4), counted] += 1
  return rows


def by_hand(strict: bool):
  """The same rows from the text of the paper, with none of the plan's code."""
  rows = collections.Counter()

  def add(kind, content, texts, rewards):
    mean, deviation = statistics.mean(rewards), statistics.stdev(rewards)
    for text, reward in zip(texts, rewards):
      advantage = (reward - mean) / (deviation + 1e-6)
      rows[kind, content, float(reward), round(advantage, 4), len(text.encode()) + 1] += 1

  for number in range(20, 20 + PROBLEMS):
    answer, problem = f'a{number}', f'question {number}'
    solutions = [said(problem, g) for g in range(G)]
    correct = [int(f'[{answer}]' in text) for text in solutions]
    if 0 < sum(correct) < G:
      add('solve', problem, solutions, correct)
    if not 0.125 <= sum(correct) / G <= 0.5:
      continue
    for solution, is_right in zip(solutions, correct):
      if not is_right:
        continue
      context = f'vary <response>{solution}</response>'
      texts = [said(context, g) for g in range(WRITTEN)]
      rewards = []
      for text in texts:
        pieces = text.split('```')
        if len(pieces) != 3:
          rewards.append(0)
          continue
        variant = pieces[1].removeprefix('text\n').strip()
        tries = [said(variant, g) for g in range(G)]
        solved = [int(f'[{answer}]' in t) for t in tries]
        rewards.append(int(0.125 <= sum(solved) / G <= 0.625))
        if 0 < sum(solved) < G:
          add('variant', variant, tries, solved)
      if any(rewards) and not (strict and all(rewards)):
        add('write', context, texts, rewards)
  return rows


@pytest.fixture(scope='module')
def policy():
  return policies.load('tiny-text', ONE, seed=0)[0]


@pytest.mark.parametrize('strict', [True, False])
def test_one_step_is_that_of_a_script(policy, strict):
  """Unparsed texts after parsed ones and variants of every length are among the rows."""
  got = step(Synthesis(variants=WRITTEN, strict=strict, template=TEMPLATE), policy)
  want = by_hand(strict)
  assert rows_of(got, policy) == want
  kinds = collections.Counter()
  for (kind, *_), count in want.items():
    kinds[kind] += count
  assert min(kinds[kind] for kind in KINDS) >= 6
  assert 0 < got.metrics['svs/parsed'] < 1
  for kind in KINDS:
    assert got.metrics[f'svs/rows/{kind}'] == kinds[kind]


def test_kept_groups_do_not_depend_on_the_order_and_all_controls_run(policy):
  plain = step(Synthesis(variants=WRITTEN, template=TEMPLATE), policy)
  ordered = step(Synthesis(variants=WRITTEN, template=TEMPLATE, shuffle=False), policy)
  assert rows_of(plain, policy) == rows_of(ordered, policy)
  kinds = [group.trajectories[0].kind for group in ordered.groups]
  assert kinds == sorted(kinds)
  assert [g.trajectories[0].kind for g in plain.groups] != kinds
  again = step(Synthesis(variants=WRITTEN, rewrite=False), policy)
  assert {t.kind for g in again.groups for t in g.trajectories} == {0, 2}
  half = step(Synthesis(variants=WRITTEN, template=TEMPLATE, keep=0.5), policy)
  assert half.metrics['svs/contexts'] == round(plain.metrics['svs/contexts'] / 2)


def test_a_step_without_half_solved_problems_trains_on_solutions(policy):
  got = step(Synthesis(variants=WRITTEN, template=TEMPLATE, low=0.9, high=1.0), policy)
  only = [group for group in got.groups if group.trajectories[0].kind == 0]
  assert only and got.metrics['svs/rows/solve'] == G * len(only)


def test_variants_that_do_not_fit_the_context_are_rejected(policy):
  sampler = Sampler(policy)
  sampler.longest = 60 + 90  # the prompts of contexts fit, those with long variants do not all
  plan = Svs(Draw(60), Synthesis(variants=WRITTEN, template=TEMPLATE), G, seed=3)
  got = Collector(Judge(), PROBLEMS)(sampler, plan, QuerySource(Task(query), policy, 0, 300), step=5, start=20)
  longest = max(len(t.prompt.tokens) for group in got.groups for t in group.trajectories)
  assert longest <= 90


@pytest.mark.slow
def test_the_band_keeps_the_writer_from_trivial_problems():
  """A table policy writes problems of ten solve rates: the band draws it to the middle, any solvable to the easy."""
  rates = np.array([1.0, 1.0, 0.98, 0.95, 0.9, 0.6, 0.4, 0.2, 0.05, 0.0])

  def written_rate(synthesis) -> float:
    rng = np.random.default_rng(0)
    logits = np.zeros(len(rates))
    for _ in range(300):
      chances = np.exp(logits) / np.exp(logits).sum()
      chosen = rng.choice(len(rates), 8, p=chances)
      correct = rng.binomial(8, rates[chosen])
      rewards = np.float32([[synthesis.rewarded(int(c), 8) for c in correct]])
      for choice, gain in zip(chosen, np.asarray(grpo(rewards))[0]):
        logits += 0.02 * gain * (np.eye(len(rates))[choice] - chances)
    chances = np.exp(logits) / np.exp(logits).sum()
    return float(chances @ rates)

  assert 0.125 <= written_rate(Synthesis()) <= 0.625
  assert written_rate(Synthesis(reward_high=1.0)) > 0.7
