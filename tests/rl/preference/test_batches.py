"""Preference pairs as batches: reference, padding, mixtures of files."""

import jax
import numpy as np
import pytest

import internvl
from core import mesh
from core.training.concatenated import Concatenated
from rl import losses, preference
from rl.learning.update import Pass
from rl.policy import Slots
from rl.preference import Bucket, BucketRows, Examples, Limits, MpoPhase, Pair, divide, phase
from rl.preference.reference import buckets_of
from tests.rl.preference.pairs import LIMITS, TEXT_PAIR, digits_pairs, initial, tiny_policy

ONE = mesh.make(devices=jax.devices()[:1])


@pytest.fixture(scope='module')
def made():
  policy = tiny_policy()
  return policy, initial(policy)


def rows_of(policy, source, slots, sums=None):
  return BucketRows(policy, source, Bucket(slots, np.arange(len(source))), sums)


@pytest.mark.slow
def test_the_reference_is_the_sum_of_each_responses_log_probabilities(made):
  policy, weights = made
  pairs = [*digits_pairs(3), TEXT_PAIR]  # text alone fits too
  rows = rows_of(policy, Examples(pairs, policy), LIMITS.slots)
  sums = preference.reference_sums(Pass(policy), weights, rows, ONE, at_once=3)
  for i, pair in enumerate(pairs):
    for k, said in enumerate((pair.chosen, pair.rejected)):
      x = policy.processor([*pair.messages, {'role': 'assistant', 'content': said}], pair.images)
      pixels = x.pixels[None] if len(x.pixels) else None
      logits = internvl.apply(weights, policy.config, x.tokens[None], pixels=pixels).logits
      z = jax.nn.log_softmax(logits[0, :-1])
      want = np.take_along_axis(np.asarray(z), x.tokens[1:, None], 1)[:, 0][x.mask[1:]].sum()
      assert sums[i, k] == pytest.approx(want, abs=2e-3)


@pytest.mark.slow
def test_a_pair_is_worth_the_same_in_every_bucket(made):
  policy, weights = made
  examples, score = Examples(digits_pairs(3), policy), Pass(policy)
  sums = preference.reference_sums(score, weights, rows_of(policy, examples, LIMITS.slots), ONE, at_once=3)
  tight = Slots(*map(int, preference.measure(policy, examples).max(0)))
  assert tight.prompt < LIMITS.prompt and tight.response < LIMITS.response and tight.tiles == 3
  close = preference.reference_sums(score, weights, rows_of(policy, examples, tight), ONE, at_once=3)
  np.testing.assert_allclose(sums, close, rtol=1e-5)
  grads = []
  for slots in (LIMITS.slots, tight):
    batch = preference.batch(jax.tree.map(lambda *x: np.stack(x), *rows_of(policy, examples, slots, sums - 1)))

    def loss(weights, batch=batch):
      logp, _ = score(weights, batch.inputs)
      return losses.mpo(logp, batch.mask, batch.reference, losses.RewardShift.new()).total

    grads.append(jax.jit(jax.value_and_grad(loss))(weights))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *grads)


def test_batches_have_one_bucket_and_the_shares_of_a_mixture(made):
  policy, _ = made
  short = [TEXT_PAIR] * 6
  long = [Pair([{'role': 'user', 'content': 'Hi'}], [], 'y' * 200, 'no')] * 6
  source = Concatenated([Examples(short, policy), Examples(long + short, policy)])
  settings = MpoPhase(batch=2, limits=Limits(128, 256, 1), buckets=4)
  buckets = buckets_of(settings, preference.measure(policy, source))
  assert [b.numbers.tolist() for b in buckets] == [[*range(6), *range(12, 18)], [*range(6, 12)]]
  sums = np.arange(36, dtype=np.float32).reshape(18, 2)  # a pair is told by its reference
  batches = lambda: phase.batches(settings, policy, source, {'a': 1.0, 'b': 2.0}, buckets, sums)
  stream, seen = batches(), []
  for _ in range(15):  # an epoch: 6 pairs once and 12 twice
    rows = next(stream)
    assert rows['mask'].shape[-1] == (128 if rows['reference'][0, 0] // 2 not in range(6, 12) else 256)
    seen += (rows['reference'][:, 0] / 2).astype(int).tolist()
  counts = np.bincount(seen, minlength=18)
  assert counts.sum() == 30
  assert np.array_equal(counts, [1] * 6 + [2] * 12)
  again = batches()
  for _ in range(4):
    next(again)
  resumed = batches()
  resumed.set_state(again.get_state())
  np.testing.assert_array_equal(next(again)['reference'], next(resumed)['reference'])


def test_how_long_a_prompt_may_be_is_for_the_limits_to_say(made):
  policy, _ = made
  long = Pair([{'role': 'user', 'content': 'x' * 600}], [], 'yes', 'no')  # beyond what the processor allows
  needs = preference.measure(policy, Examples([long, *digits_pairs(1)], policy))
  assert needs[0, 0] > policy.processor.config.max_length
  (bucket,) = divide(needs, LIMITS, most=1, least=1)
  assert bucket.numbers.tolist() == [1]


def test_augmentation_of_a_pair_depends_on_the_seed_and_its_number_alone(made):
  policy, _ = made
  pairs = digits_pairs(2)
  pixels = lambda i, **options: Examples(pairs, policy, **options)[i][0].prompt.pixels
  np.testing.assert_array_equal(pixels(1, augment=True, seed=3), pixels(1, augment=True, seed=3))
  assert (pixels(1, augment=True, seed=3) != pixels(1, augment=True, seed=4)).any()
  assert (pixels(1, augment=True, seed=3) != pixels(1)).any()


def test_a_pair_that_cannot_be_read_is_named(made):
  policy, _ = made
  bad = Pair([{'role': 'user', 'content': '<image>\nWhat?'}], [], 'yes', 'no')
  with pytest.raises(ValueError, match='pair 1: the messages hold 1 <image> marks, but 0 images'):
    preference.measure(policy, Examples([TEXT_PAIR, bad], policy))
