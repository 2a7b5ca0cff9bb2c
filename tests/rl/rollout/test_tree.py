"""Tree rollouts: counts, stops, shares and fallback without a model, and the prefixes that an engine reads."""

import collections
import dataclasses
import itertools

import jax
import numpy as np
import pytest

from core import mesh
from core.engine import EngineSize
from rl import policy as policies
from rl.policy import Draw, layouts
from rl.rollout import Ask, Sampler
from rl.rollout.tree import Branching, Growth, Segment, Tree, growth
from rl.rollout.tree.path import Leaf, Path, Reason, boxed, repetitive
from rl.rollout.tree.plan import trajectories

NEVER = Branching(segment=8, depth=14, first_low=2, first_high=2)


def grow(options, *, width, longest, stop=lambda r: False, text='', seed=0):
  """A tree whose segments end by chance."""
  r = np.random.default_rng(seed)
  tree = Growth(options, width=width, longest=longest, random=np.random.default_rng(seed))
  counts, fresh = [], itertools.count()
  while tree.active:
    counts.append(len(tree.active))
    segments = []
    for path in tree.active:
      ended = bool(stop(r))
      length = int(r.integers(1, tree.limit(path) + 1)) if ended else tree.limit(path)
      tokens = np.array([next(fresh) for _ in range(length)], np.int32)  # tokens of no other segment
      segments.append(Segment(tokens, -r.random(length).astype(np.float32), text, ended))
    tree.advance(segments)
  return tree, counts


def test_the_papers_counts():
  tree, counts = grow(NEVER, width=16, longest=14 * 8)
  assert counts == [2, 4, 8, *[16] * 11] and tree.requests == 190
  wide = dataclasses.replace(NEVER, first_low=8, first_high=8)
  assert grow(wide, width=16, longest=14 * 8)[0].requests == 216
  three = dataclasses.replace(NEVER, branch=3, first_low=3, first_high=3)
  assert grow(three, width=16, longest=14 * 8)[1][:4] == [3, 9, 16, 16]
  assert {len(leaf.path.labels) for leaf in tree.leaves} == {14}
  assert {leaf.reason for leaf in tree.leaves} == {Reason.LENGTH}  # asked before depth
  assert grow(NEVER, width=16, longest=1000)[0].leaves[0].reason == Reason.DEPTH


def test_an_early_stop_hands_its_width_to_the_survivors():
  tree = Growth(dataclasses.replace(NEVER, depth=9), width=8, longest=72, random=np.random.default_rng(0))
  segment = lambda ended: Segment(np.zeros(8, np.int32), np.zeros(8, np.float32), '', ended)
  tree.advance([segment(False)] * 2)
  tree.advance([segment(ended) for ended in (True, False, True, False)])
  assert len(tree.active) == 6


def test_five_hundred_random_trees():
  r = np.random.default_rng(0)
  pick = lambda *choices: choices[r.integers(len(choices))]
  fanouts, fallbacks = set(), 0
  for seed in range(500):
    width, levels, length = int(r.integers(1, 20)), int(r.integers(1, 8)), int(r.integers(1, 7))
    low = int(r.integers(1, 4))
    options = Branching(
      segment=length,
      depth=levels,
      branch=int(r.integers(1, 5)),
      first_low=low,
      first_high=8,
      share=pick('even', 'low', 'high'),
      score=pick('sum', 'mean', 'segment'),
      temperature=pick(0.1, 2.0),
      box=pick('with_end', 'alone'),
      fallback=pick('ended', 'any', 'best', 'long'),
      reopen=pick('random', 'low', 'high', 'start'),
    )
    longest = int(r.integers(1, levels * length + 3))
    rate = pick(0.0, 0.1, 0.5, 0.95)
    text = pick('', 'x' * 39, r'\boxed{1}') if r.random() < 0.2 else ''
    tree, counts = grow(
      options, width=width, longest=longest, stop=lambda r, p=rate: r.random() < p, text=text, seed=seed
    )
    assert len(tree.leaves) == width
    assert tree.requests == sum(counts) <= width * options.levels(longest)
    labels = [leaf.path.labels for leaf in tree.leaves]
    assert len(set(labels)) == width
    by_label = {}
    for leaf in tree.leaves:
      tokens, path = leaf.path.tokens, leaf.path.labels
      assert len(path) <= levels and 0 < len(tokens) <= longest and len(tokens) == len(leaf.path.logp)
      assert len(path) == -(-len(tokens) // length)
      for n, label in enumerate(path):  # a label is one segment of one parent
        part = (path[:n], tuple(tokens[n * length : (n + 1) * length]))
        assert by_label.setdefault(label, part) == part
    fanouts.add(counts[0])
    fallbacks += tree.fallbacks
    assert (
      grow(options, width=width, longest=longest, stop=lambda r, p=rate: r.random() < p, text=text, seed=seed)[1]
      == counts
    )
  assert {2, 5, 8} <= fanouts and fallbacks > 100


@pytest.mark.parametrize(
  'text, want',
  [
    (r'so \boxed{4}', True),
    (r'\boxed{a{b{c}d}e}', True),
    (r'\boxed{a{b{c{d}}}}', False),
    (r'\boxed {4}', False),
    (r'\boxed{4', False),
    (r'\boxed{{x}', False),
  ],
)
def test_a_complete_box(text, want):
  assert boxed(text) == want


@pytest.mark.parametrize('period, least', [(1, 39), (2, 46), (8, 88), (33, 263)])
def test_repetition_counts_overlapping_windows(period, least):
  unit = ''.join(chr(65 + i) for i in range(period))
  text = unit * (least // period + 1)
  assert repetitive(text[:least]) and not repetitive(text[: least - 1])


def _stop(text, tokens, labels, ended, options=NEVER):
  path = Path(np.zeros(tokens, np.int32), np.zeros(tokens, np.float32), tuple((i, 0) for i in range(labels)))
  return growth.stop_reason(text, path, ended=ended, levels=14, longest=112, options=options)


def test_stop_rules_in_their_order():
  box, again = r'\boxed{4}', 'x' * 39
  assert _stop(again + box, 8, 1, True) == Reason.REPETITION
  assert _stop(box, 8, 1, True) == Reason.ANSWER and _stop(box, 8, 1, False) is None
  assert _stop(box, 8, 1, False, dataclasses.replace(NEVER, box='alone')) == Reason.ANSWER
  assert _stop('', 1, 1, True) == Reason.END  # an end token alone
  assert _stop('', 112, 14, False) == Reason.LENGTH and _stop('', 111, 14, False) == Reason.DEPTH
  assert _stop('', 8, 1, False) is None


def test_shares_by_probability():
  paths = [Path(np.zeros(8, np.int32), np.full(8, value, np.float32)) for value in (-1.0, -0.1, -3.0)]
  of = lambda **options: growth.shares(paths, 9, dataclasses.replace(NEVER, **options))
  assert of() == [3, 3, 3] and growth.shares(paths, 8, NEVER) == [3, 3, 2]
  low, high = of(share='low', temperature=0.1), of(share='high', temperature=0.1)
  assert low == [1, 1, 7] and high == [1, 7, 1]
  assert of(share='low', score='mean', temperature=100.0) == [3, 3, 3]
  assert sum(of(share='high', score='sum')) == 9


def test_fallback_candidates_and_cuts():
  r = np.random.default_rng(0)
  leaf = lambda n, reason: Leaf(
    Path(np.arange(n, dtype=np.int32), np.linspace(-2, 0, n), tuple((i, 0) for i in range(-(-n // 8)))), reason
  )
  leaves = [leaf(5, Reason.END), leaf(20, Reason.LENGTH), leaf(30, Reason.ANSWER)]
  assert {x.reason for x in growth.candidates(leaves, NEVER, r)} == {Reason.END, Reason.ANSWER}
  best = growth.candidates(leaves, dataclasses.replace(NEVER, fallback='best'), r)
  assert [x.reason for x in best] == [Reason.ANSWER, Reason.END, Reason.LENGTH]
  lengths = collections.Counter()
  for _ in range(200):
    path = growth.reopened(leaves[2].path, NEVER, r)
    assert len(path.tokens) == len(path.logp) == 8 * len(path.labels)
    lengths[len(path.labels)] += 1
  assert set(lengths) == {0, 1, 2, 3}
  assert not len(growth.reopened(leaves[0].path, NEVER, r).tokens)


def test_options_are_checked():
  for options, message in (
    ({'segment': -1}, 'segment=-1'),
    ({'first_low': 9}, 'first_low=9'),
    ({'temperature': 0.0}, 'temp'),
  ):
    with pytest.raises(ValueError, match=message):
      Branching(**options)


@pytest.mark.slow
@pytest.mark.parametrize('width, longest, segment', [(4, 16, 4), (8, 48, 1)])
def test_trees_do_not_push_each_other_out_of_the_cache(width, longest, segment):
  """The cache holds the trees of a few queries, not of all; wide ones take many steps until they fill the slots."""
  place = mesh.make(devices=jax.devices()[:1])
  policy, weights = policies.load('tiny-text', place, seed=0)
  policy = dataclasses.replace(policy, stops=())
  size = EngineSize(slots=width, pages=32 * width, page_size=4, segment=segment, chunk=32)
  sampler = Sampler(policy, weights, size, mesh.Share(place, place))
  plan = Tree(Draw(longest), Branching(segment=4, first_low=2, first_high=2), width=width)
  prompts = [policy.prompt([{'role': 'user', 'content': f'question {n}'}]) for n in range(24)]
  plan.grow(sampler, prompts, range(24))
  read = {tuple(prompt.tokens[:n]) for prompt in prompts for n in range(1, len(prompt.tokens))}
  assert sampler.engine.stats.prefilled < 1.1 * len(read)
  needed = len(read) + sampler.engine.stats.decoded
  assert needed > 2 * size.pages * size.page_size


@pytest.mark.slow
def test_the_engine_reads_the_training_rows_prefix_and_fills_the_prompt_once():
  place = mesh.make(devices=jax.devices()[:1])
  policy, weights = policies.load('tiny-text', place, seed=0)
  size = EngineSize(slots=8, pages=128, page_size=4, segment=4, chunk=32)
  sampler = Sampler(policy, weights, size, mesh.Share(place, place))
  options = Branching(segment=8, first_low=2, first_high=2)
  plan = Tree(Draw(24), options, width=6, seed=5)
  prompts = [policy.prompt([{'role': 'user', 'content': text}]) for text in ('one', 'another')]
  asked, submit = [], sampler.engine.submit
  sampler.engine.submit = lambda request: asked.append(list(request.prompt)) or submit(request)
  grown = plan.grow(sampler, prompts, [3, 4])
  read = {tuple(prompt.tokens[:n]) for prompt in prompts for n in range(1, len(prompt.tokens))}
  assert sampler.engine.stats.prefilled == len(read)  # the prompts share the beginning of their template
  assert len(asked) == sum(tree.requests for tree in grown)
  groups = [trajectories(policy, prompt, tree.leaves) for prompt, tree in zip(prompts, grown)]
  prefixes = set()
  for prompt, group in zip(prompts, groups):
    assert len(group) == 6
    for t in group:
      whole = [*prompt.tokens.tolist(), *t.tokens.tolist()]
      prefixes |= {tuple(whole[: len(prompt.tokens) + n]) for n in range(0, len(t.tokens), 8)}
  assert {tuple(prompt) for prompt in asked} == prefixes
  slots = policy.slots(groups, 'trees').bucketed()
  inputs = policy.inputs(groups, 'trees', slots)
  logp, _ = policy.log_probs(weights, inputs)
  sampled = layouts.spread(groups, lambda t: t.logp, samples=6, length=slots.response, dtype=np.float32)
  mask = layouts.spread(groups, lambda t: t.mask, samples=6, length=slots.response, dtype=bool)
  np.testing.assert_allclose(np.where(mask, logp, 0), sampled, atol=1e-4)
  decoded = sum(len(np.unique(index[m])) for index, m in zip(inputs.index, mask))
  assert decoded <= sampler.engine.stats.decoded < mask.sum()
  # A query's tree does not depend on the others.
  (alone,) = plan(sampler, Ask(0, 0, [4], [None], prompts[1:]))
  assert [t.tokens.tolist() for t in alone] == [t.tokens.tolist() for t in groups[1]]
