"""Preference pairs: the record format, building them from samples, and what the model is given."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import internvl
from core import mesh
from core.engine import EngineSize
from internvl.inputs.processor_config import ProcessorConfig
from internvl.inputs.templates import LAYOUTS
from rl import losses, policy, preference
from rl.policy.vision_language import VisionLanguagePolicy
from rl.preference import Chain, Examples, Pair, Placed, Records, Scored, Sizes, correctness_pairs, divide
from rl.preference.build import answer_tokens, without_media
from rl.recipes import cascade, mpo
from rl.rollout import Sampler, flat
from rl.tasks import expressions_query

SIZES = Sizes(prompt=48, answer=48, tiles=3)
ONE = mesh.make(devices=jax.devices()[:1])


def over_bytes(template='internvl_hf', **settings):
  tiny = internvl.CONFIGS['tiny']
  return internvl.Processor.over_bytes(
    ProcessorConfig(
      image_size=tiny.vision.image_size,
      tokens_per_tile=tiny.tokens_per_tile,
      max_tiles=3,
      thumbnail=False,
      template=template,
      **{'system': '', 'max_length': 512} | settings,
    )
  )


@pytest.fixture(scope='module')
def processor():
  return over_bytes()


@pytest.fixture(scope='module')
def model(processor):
  config = dataclasses.replace(internvl.CONFIGS['tiny'], image_token=processor.image_id)
  return config, internvl.init(jax.random.key(0), config)


def digits_pairs(n):
  queries = [expressions_query('train', 1, i) for i in range(n)]
  wrong = lambda q: q.solution.replace(f'boxed{{{q.answer}}}', f'boxed{{{int(q.answer) + 1}}}')
  return [Pair(q.messages, q.images, q.solution, wrong(q), q.answer) for q in queries]


def test_records_round_trip_with_their_images(tmp_path):
  pairs = digits_pairs(3)
  assert preference.write(tmp_path / 'pairs.jsonl', pairs) == 3
  back = Records(tmp_path / 'pairs.jsonl')
  back.check()
  for a, b in zip(pairs, [back[i] for i in range(len(back))]):
    assert (a.messages, a.chosen, a.rejected, a.answer) == (b.messages, b.chosen, b.rejected, b.answer)
    assert np.array_equal(a.images[0], Image.open(b.images[0]))


@pytest.mark.parametrize(
  'change, says',
  [
    ({'chosen': None}, '"chosen" must be a text'),
    ({'rejected': 5}, '"rejected" must be a text, not 5'),
    ({'rejected': 'good'}, 'the same text'),
    ({'question': '<image> <image>'}, '2 <image> marks'),
    ({'image': 7}, '"image" must be a path'),
    ({'image': 'gone.png'}, 'gone.png, which does not exist'),
  ],
)
def test_a_bad_record_is_named_by_its_line(tmp_path, change, says):
  good = {'image': 'a.png', 'question': '<image>\nWhat?', 'chosen': 'good', 'rejected': 'bad', 'meta': None}
  Image.new('RGB', (16, 16)).save(tmp_path / 'a.png')
  (tmp_path / 'x.jsonl').write_text(json.dumps(good) + '\n' + json.dumps(good | change) + '\n')
  records = Records(tmp_path / 'x.jsonl')
  assert records[0].chosen == 'good'
  with pytest.raises((ValueError, FileNotFoundError), match=r'x\.jsonl:2') as error:
    records[1]
  assert says in str(error.value)


def test_pairs_prefer_right_to_wrong_and_formed_to_unformed():
  samples = [
    Scored('a', True),
    Scored('b', True),
    Scored('c', False, result='5'),
    Scored('d', True, formed=False),
    Scored('e', False, result='17'),
    Scored('a', True),
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
  assert not correctness_pairs([], [], '7', [Scored('a', True)] * 5)
  assert not correctness_pairs([], [], '7', [Scored('c', False, result='5')] * 5)


def test_media_are_taken_out_of_every_kind_of_turn():
  image = Image.new('RGB', (16, 16))
  assert without_media([{'role': 'user', 'content': '<image>\nA <image> B'}])[0]['content'] == 'A  B'
  parts = [{'type': 'image', 'image': image}, {'type': 'text', 'text': '<image>'}]
  assert without_media([{'role': 'user', 'content': parts}])[0]['content'] == parts[1:]


@pytest.mark.parametrize('template', LAYOUTS)
def test_prompt_and_answer_tokens_are_those_of_the_whole_conversation(template):
  of = over_bytes(template, system=None, max_length=2048)
  talk, images = [{'role': 'user', 'content': '<image>\nWhat?'}], [Image.new('RGB', (32, 16))]
  for said in ('<think>a</think>\\boxed{7}', 'seven <|im_end|> <image> ', ''):
    whole = of([*talk, {'role': 'assistant', 'content': said}], images)
    tokens = np.concatenate([of(talk, images).tokens, answer_tokens(of, said)])
    np.testing.assert_array_equal(whole.tokens[: len(tokens)], tokens)
    assert not whole.mask[len(tokens) :].any()


def test_the_reference_is_the_sum_of_each_answers_log_probabilities(processor, model):
  config, params = model
  pairs = [*digits_pairs(3), Pair([{'role': 'user', 'content': 'Hi'}], [], 'yes', 'no')]  # text alone fits too
  rows = Placed(Examples(pairs, processor), SIZES, np.arange(4))
  sums = preference.reference(params, config, rows, ONE, at_once=3)
  for i, pair in enumerate(pairs):
    for k, said in enumerate((pair.chosen, pair.rejected)):
      x = processor([*pair.messages, {'role': 'assistant', 'content': said}], pair.images)
      pixels = x.pixels[None] if len(x.pixels) else None
      z = jax.nn.log_softmax(internvl.apply(params, config, x.tokens[None], pixels=pixels).logits[0, :-1])
      want = np.take_along_axis(np.asarray(z), x.tokens[1:, None], 1)[:, 0][x.mask[1:]].sum()
      assert sums[i, k] == pytest.approx(want, abs=2e-3)


def test_a_pair_is_worth_the_same_in_every_room(processor, model):
  config, params = model
  examples = Examples(digits_pairs(3), processor)
  whole = Placed(examples, SIZES, np.arange(3))
  sums = preference.reference(params, config, whole, ONE, at_once=3)
  needs = preference.measure(examples)
  tight = Sizes(*map(int, needs.max(0)))
  assert tight.slots < SIZES.slots and tight.holds(needs[0]) and not tight.holds(needs.max(0) + 1)
  close = preference.reference(params, config, Placed(examples, tight, np.arange(3)), ONE, at_once=3)
  np.testing.assert_allclose(sums, close, rtol=1e-5)
  grads = []
  for room in (SIZES, tight):
    batch = preference.batch(jax.tree.map(lambda *x: np.stack(x), *Placed(examples, room, np.arange(3), sums - 1)))

    def loss(params, batch=batch):
      logp, _ = policy.log_probs(params, config, batch.prompts, batch.answers)
      return losses.mpo(logp, batch.answers.mask, batch.reference, losses.RewardShift.new()).total

    grads.append(jax.jit(jax.value_and_grad(loss))(params))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *grads)


@settings(max_examples=50, deadline=None)
@given(
  st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 5)), min_size=1, max_size=60),
  st.integers(1, 6),
  st.integers(1, 9),
)
def test_rooms_hold_every_pair_that_fits_once_and_never_waste_more(needs, most, least):
  needs, limit = np.array(needs), Sizes(1500, 1700, 4)
  fitting = [i for i, need in enumerate(needs) if limit.holds(need)]
  if not fitting:
    with pytest.raises(ValueError, match='none of'):
      divide(needs, limit, most=most, least=least)
    return
  groups = divide(needs, limit, most=most, least=least)
  assert sorted(int(i) for g in groups for i in g.numbers) == fitting and len(groups) <= most
  assert len(groups) == 1 or min(len(g.numbers) for g in groups) >= least
  for g in groups:
    assert all(g.room.holds(needs[i]) for i in g.numbers) and limit.holds(dataclasses.astuple(g.room))
  slots = lambda groups: sum(len(g.numbers) * g.room.slots for g in groups)
  assert slots(groups) <= slots(divide(needs, limit, most=1, least=least)) <= len(fitting) * limit.slots


def test_batches_have_one_room_and_the_shares_of_a_mixture(processor):
  short = [Pair([{'role': 'user', 'content': 'Hi'}], [], 'yes', 'no')] * 6
  long = [Pair([{'role': 'user', 'content': 'Hi'}], [], 'y' * 200, 'no')] * 6
  chain = Chain([Examples(short, processor), Examples(long + short, processor)])
  phase = mpo.MpoPhase(batch=2, sizes=Sizes(128, 256, 1), rooms=4)
  needs = preference.measure(chain)
  groups = divide(needs, phase.sizes, most=phase.rooms, least=phase.batch)
  assert [g.numbers.tolist() for g in groups] == [[*range(6), *range(12, 18)], [*range(6, 12)]]
  sums = np.arange(36, dtype=np.float32).reshape(18, 2)  # a pair is told by its reference
  batches = lambda: mpo._batches(phase, chain, {'a': 1.0, 'b': 2.0}, groups, sums)
  stream, seen = batches(), []
  for _ in range(15):  # an epoch: 6 pairs once and 12 twice
    rows = next(stream)
    assert rows['said'].shape[-1] == (128 if rows['reference'][0, 0] // 2 not in range(6, 12) else 256)
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


def test_how_long_a_prompt_may_be_is_for_the_room_to_say(processor):
  long = Pair([{'role': 'user', 'content': 'x' * 600}], [], 'yes', 'no')  # beyond what the processor allows
  assert Examples([long], processor).need(0)[0] > processor.config.max_length
  assert len(divide(preference.measure(Examples([long, *digits_pairs(1)], processor)), SIZES, most=1, least=1)) == 1


def test_continuations_keep_the_first_half_and_see_no_image(processor, model, monkeypatch):
  config, params = model
  place = mesh.make(devices=jax.devices()[:1])
  p = VisionLanguagePolicy(config, processor)
  sampler = Sampler(p, params, EngineSize(slots=4, pages=64, chunk=64), mesh.Share(place, place))
  seen, draw = [], flat.sample

  def spy(sampler, prompts, *args, **options):
    seen.extend(prompts)
    return draw(sampler, prompts, *args, **options)

  monkeypatch.setattr(flat, 'sample', spy)
  good = [(p.messages, p.images, p.chosen) for p in digits_pairs(3)]
  pairs = preference.continuation_pairs(sampler, processor, good, max_new=8, seed=3)
  assert len(pairs) == 3 and not any((x.tokens == processor.image_id).any() for x in seen)
  for pair, (_, images, text) in zip(pairs, good):
    half = processor.tokenizer.decode(answer_tokens(processor, text)[: len(answer_tokens(processor, text)) // 2])
    assert pair.chosen == text and pair.images is images
    assert pair.rejected.startswith(half.strip()) and pair.rejected != text


def test_online_queries_are_those_within_the_band():
  query = expressions_query('train', 1, 0)
  of = lambda right: cascade.Sampled(query, [Scored('x', i < right) for i in range(10)])
  assert len(cascade.online_queries([of(n) for n in range(11)])) == 7  # 2 to 8 of 10


PHASE = mpo.MpoPhase(
  steps=12,
  batch=8,
  accumulate=2,
  sizes=SIZES,
  reference_batch=8,
  save_every=4,
  optim=mpo.Optim(lr=1e-3, schedule='constant'),
)


def lines(folder: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.slow
def test_the_mpo_phase_starts_at_its_known_value_learns_and_resumes(processor, model, tmp_path):
  config, _ = model
  start = lambda: internvl.init(jax.random.key(0), config)
  pairs = {'digits': (Examples(digits_pairs(16), processor), 1.0)}
  whole = mpo.mpo(PHASE, config, start(), pairs, tmp_path / 'whole')
  metrics = lines(tmp_path / 'whole')
  # The first micro-batch has policy = reference; so has the second, whose weights are the same.
  assert metrics[0]['preference'] == pytest.approx(np.log(2), abs=1e-4)
  assert metrics[0]['quality'] == pytest.approx(2 * np.log(2), abs=1e-4)
  assert metrics[0]['loss'] == pytest.approx(1.2 * np.log(2) + metrics[0]['generation'], abs=1e-3)
  assert metrics[-1]['preference'] < np.log(2) - 0.01 and metrics[-1]['generation'] < metrics[0]['generation']
  assert metrics[-1]['shift'] != 0
  with pytest.raises(KeyboardInterrupt):
    interrupted(PHASE, config, start(), pairs, tmp_path / 'cut')
  again = mpo.mpo(PHASE, config, start(), pairs, tmp_path / 'cut')
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again)):
    np.testing.assert_array_equal(a, b)
  assert (tmp_path / 'whole/metrics.jsonl').read_bytes() == (tmp_path / 'cut/metrics.jsonl').read_bytes()


def interrupted(phase, config, params, pairs, folder):
  """The phase, killed in the tenth step."""
  step = mpo.make_step

  def breaking(*args, **options):
    inner, calls = step(*args, **options), []

    def go(*a):
      calls.append(1)
      if len(calls) == 10:
        raise KeyboardInterrupt
      return inner(*a)

    return go

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(mpo, 'make_step', breaking)
    mpo.mpo(phase, config, params, pairs, folder)
