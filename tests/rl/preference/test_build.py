"""Preference pairs out of samples, and the choice of queries by their accuracy."""

import jax
import pytest
from PIL import Image

from core import mesh
from core.engine import EngineSize
from rl import policy as policies
from rl.preference import JudgedSample, continuation_pairs, correctness_pairs, samples
from rl.preference.build import without_media
from rl.rollout import Sampler, flat
from rl.tasks import expressions_query
from tests.rl.preference.pairs import digits_pairs, initial, tiny_policy


def test_pairs_prefer_right_to_wrong_and_formed_to_unformed():
  samples = [
    JudgedSample('a', True),
    JudgedSample('b', True),
    JudgedSample('c', False, result='5'),
    JudgedSample('d', True, formed=False),
    JudgedSample('e', False, result='17'),
    JudgedSample('a', True),
  ]  # 17 contains the answer 7: no negative
  pairs = correctness_pairs([], [], '7', samples)
  assert {(p.chosen, p.rejected, p.meta['kind']) for p in pairs} == {
    ('a', 'c', 'correctness'),
    ('a', 'd', 'format'),
    ('b', 'c', 'correctness'),
    ('b', 'd', 'format'),
  }
  some = correctness_pairs([], [], '7', samples, most=2, seed=4)
  assert len(some) == 2 and some == correctness_pairs([], [], '7', samples, most=2, seed=4)
  assert not correctness_pairs([], [], '7', [JudgedSample('a', True)] * 5)
  assert not correctness_pairs([], [], '7', [JudgedSample('c', False, result='5')] * 5)


def test_media_are_taken_out_of_every_kind_of_turn():
  image = Image.new('RGB', (16, 16))
  assert without_media([{'role': 'user', 'content': '<image>\nA <image> B'}])[0]['content'] == 'A  B'
  parts = [{'type': 'image', 'image': image}, {'type': 'text', 'text': '<image>'}]
  assert without_media([{'role': 'user', 'content': parts}])[0]['content'] == parts[1:]


@pytest.mark.slow
def test_continuations_keep_the_first_half_and_see_no_image(monkeypatch):
  place = mesh.make(devices=jax.devices()[:1])
  policy = tiny_policy()
  sampler = Sampler(policy, initial(policy), EngineSize(slots=4, pages=64, chunk=64), mesh.Share(place, place))
  seen, draw = [], flat.sample

  def spy(sampler, prompts, *args, **options):
    seen.extend(prompts)
    return draw(sampler, prompts, *args, **options)

  monkeypatch.setattr(flat, 'sample', spy)
  good = [(p.messages, p.images, p.chosen) for p in digits_pairs(3)]
  pairs = continuation_pairs(sampler, good, max_new=8, seed=3)
  assert len(pairs) == 3 and not any((x.tokens == policy.processor.image_id).any() for x in seen)
  for pair, (_, images, text) in zip(pairs, good):
    said = policy.response(text)
    half = policy.text(said[: len(said) // 2])
    assert pair.chosen == text and pair.images is images
    assert pair.rejected.startswith(half.strip()) and pair.rejected != text


def test_a_text_policy_continues_its_own_first_halves():
  place = mesh.make(devices=jax.devices()[:1])
  policy, weights = policies.load('tiny-text', place)
  sampler = Sampler(policy, weights, EngineSize(slots=4, pages=64, chunk=64), mesh.Share(place, place))
  (pair,) = continuation_pairs(sampler, [([{'role': 'user', 'content': 'Hi'}], [], 'good morning')], max_new=6)
  assert pair.chosen == 'good morning' and pair.rejected.startswith('good m') and pair.rejected != pair.chosen


def test_online_queries_are_those_within_the_band():
  query = expressions_query('train', 1, 0)
  of = lambda right: samples.Sampled(query, [JudgedSample('x', i < right) for i in range(10)])
  assert len(samples.online_queries([of(n) for n in range(11)])) == 7  # 2 to 8 of 10
