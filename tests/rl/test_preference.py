"""Preference pairs: the record format, building them from samples, and what the model is given."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

import internvl
from core import mesh
from internvl.processor_config import ProcessorConfig
from internvl.templates import LAYOUTS
from rl import preference
from rl.engine import Room
from rl.preference import Examples, Pair, Records, Scored, Sizes, TooLong, correctness_pairs
from rl.preference.build import answer_tokens, without_media
from rl.recipes import cascade
from rl.sampler import Sampler
from rl.tasks import expressions_query

SIZES = Sizes(prompt=48, answer=48, tiles=3)


def over_bytes(template='internvl_hf', **settings):
  tiny = internvl.CONFIGS['tiny']
  return internvl.Processor.over_bytes(ProcessorConfig(
      image_size=tiny.vision.image_size, tokens_per_tile=tiny.tokens_per_tile, max_tiles=3, thumbnail=False,
      template=template, **{'system': '', 'max_length': 512} | settings))


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


@pytest.mark.parametrize('change, says', [
    ({'chosen': None}, '"chosen" must be a text'), ({'rejected': 5}, '"rejected" must be a text, not 5'),
    ({'rejected': 'good'}, 'the same text'), ({'question': '<image> <image>'}, '2 <image> marks'),
    ({'image': 7}, '"image" must be a path'), ({'image': 'gone.png'}, 'gone.png, which does not exist')])
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
  samples = [Scored('a', True), Scored('b', True), Scored('c', False, result='5'), Scored('d', True, formed=False),
             Scored('e', False, result='17'), Scored('a', True)]  # 17 contains the answer 7: no negative
  pairs = correctness_pairs([], [], '7', samples)
  assert {(p.chosen, p.rejected, p.meta['kind']) for p in pairs} == {
      ('a', 'c', 'correctness'), ('a', 'd', 'format'), ('b', 'c', 'correctness'), ('b', 'd', 'format')}
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
    np.testing.assert_array_equal(whole.tokens[:len(tokens)], tokens)
    assert not whole.mask[len(tokens):].any()


def test_the_reference_is_the_sum_of_each_answers_log_probabilities(processor, model):
  config, params = model
  pairs = [*digits_pairs(3), Pair([{'role': 'user', 'content': 'Hi'}], [], 'yes', 'no')]  # text alone fits too
  examples = Examples(pairs, processor, SIZES)
  numbers, sums = preference.reference(params, config, examples, at_once=3)
  assert numbers.tolist() == [0, 1, 2, 3]
  for i, pair in enumerate(pairs):
    for k, said in enumerate((pair.chosen, pair.rejected)):
      x = processor([*pair.messages, {'role': 'assistant', 'content': said}], pair.images)
      pixels = x.pixels[None] if len(x.pixels) else None
      z = jax.nn.log_softmax(internvl.apply(params, config, x.tokens[None], pixels=pixels).logits[0, :-1])
      want = np.take_along_axis(np.asarray(z), x.tokens[1:, None], 1)[:, 0][x.mask[1:]].sum()
      assert sums[i, k] == pytest.approx(want, abs=2e-3)


def test_pairs_that_do_not_fit_are_left_out(processor, model):
  config, params = model
  long = Pair([{'role': 'user', 'content': 'Hi'}], [], 'y' * 60, 'no')
  with pytest.raises(TooLong, match='pair 0 needs'):
    Examples([long], processor, SIZES)[0]
  numbers, _ = preference.reference(params, config, Examples([long, *digits_pairs(1)], processor, SIZES), at_once=2)
  assert numbers.tolist() == [1]
  with pytest.raises(ValueError, match='none of 1 pairs'):
    preference.reference(params, config, Examples([long], processor, SIZES), at_once=2)


def test_continuations_keep_the_first_half_and_see_no_image(processor, model):
  config, params = model
  place = mesh.make(devices=jax.devices()[:1])
  sampler = Sampler(params, config, processor, Room(slots=4, pages=64, chunk=64), mesh.Share(place, place))
  seen = []
  def spy(prompts, **options):
    seen.extend(prompts)
    return sampler(prompts, **options)
  good = [(p.messages, p.images, p.chosen) for p in digits_pairs(3)]
  pairs = preference.continuation_pairs(spy, processor, good, max_new=8, seed=3)
  assert len(pairs) == 3 and not any((x.tokens == processor.image_id).any() for x in seen)
  for pair, (_, images, text) in zip(pairs, good):
    half = processor.tokenizer.decode(answer_tokens(processor, text)[:len(answer_tokens(processor, text)) // 2])
    assert pair.chosen == text and pair.images is images
    assert pair.rejected.startswith(half.strip()) and pair.rejected != text


def test_online_queries_are_those_within_the_band():
  query = expressions_query('train', 1, 0)
  of = lambda right: cascade.Sampled(query, [Scored('x', i < right) for i in range(10)])
  assert len(cascade.online_queries([of(n) for n in range(11)])) == 7  # 2 to 8 of 10


PHASE = cascade.MpoPhase(steps=12, batch=8, accumulate=2, sizes=SIZES, reference_batch=8, save_every=4,
                         optim=cascade.Optim(lr=1e-3, schedule='constant'))


def lines(folder: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.slow
def test_the_mpo_phase_starts_at_its_known_value_learns_and_resumes(processor, model, tmp_path):
  config, _ = model
  start = lambda: internvl.init(jax.random.key(0), config)
  pairs = digits_pairs(16)
  whole = cascade.mpo(PHASE, config, start(), processor, pairs, tmp_path / 'whole')
  metrics = lines(tmp_path / 'whole')
  # The first micro-batch has policy = reference; so has the second, whose weights are the same.
  assert metrics[0]['preference'] == pytest.approx(np.log(2), abs=1e-4)
  assert metrics[0]['quality'] == pytest.approx(2 * np.log(2), abs=1e-4)
  assert metrics[0]['loss'] == pytest.approx(1.2 * np.log(2) + metrics[0]['generation'], abs=1e-3)
  assert metrics[-1]['preference'] < np.log(2) - 0.01 and metrics[-1]['generation'] < metrics[0]['generation']
  assert metrics[-1]['shift'] != 0
  with pytest.raises(KeyboardInterrupt):
    interrupted(PHASE, config, start(), processor, pairs, tmp_path / 'cut')
  again = cascade.mpo(PHASE, config, start(), processor, pairs, tmp_path / 'cut')
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again)):
    np.testing.assert_array_equal(a, b)
  assert (tmp_path / 'whole/metrics.jsonl').read_bytes() == (tmp_path / 'cut/metrics.jsonl').read_bytes()


def interrupted(phase, config, params, processor, pairs, folder):
  """The phase, killed in the tenth step."""
  step = cascade.make_step
  def breaking(*args, **options):
    inner, calls = step(*args, **options), []
    def go(*a):
      calls.append(1)
      if len(calls) == 10:
        raise KeyboardInterrupt
      return inner(*a)
    return go
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(cascade, 'make_step', breaking)
    cascade.mpo(phase, config, params, processor, pairs, folder)
