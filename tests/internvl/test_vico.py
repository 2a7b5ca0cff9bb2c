"""ViCO: consistency with a frozen reference, labels by loss ratios, and training of the router alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import internvl
from core import decoder, mesh
from core.training import optim, steps
from internvl import model
from internvl import train as program
from internvl.flash import router
from internvl.inputs.processor import compress
from internvl.losses import vico, window
from internvl.plan.training import plan_step as program_of
from internvl.training import sft
from internvl.training.configs import CONFIGS, Vico
from tests.internvl.test_train import SAMPLES, Given, changed, row

C = dataclasses.replace(
  CONFIGS['tiny'], averaging='sample', batch=2, length=192, tiles=9, steps=3, optim=optim.Optim(lr=1e-2)
)
ROUTING = dataclasses.replace(C, model='FOLDER', reference='FOLDER', objective='routing', vico=Vico(window=1024))


def flash(seed: int):
  """(config, params) of a Flash model with weights far from their initial values."""
  config = internvl.CONFIGS['tiny-flash']
  config = dataclasses.replace(
    config,
    image_token=Given.processor.image_id,
    vision=dataclasses.replace(config.vision, depth=1),
    language=dataclasses.replace(config.language, depth=1),
  )
  r = np.random.default_rng(seed)
  draw = lambda s: jnp.asarray(2 * r.standard_normal(s.shape) / np.sqrt(s.fan_in), jnp.float32)
  return config, jax.tree.map(draw, internvl.spec(config))


@pytest.fixture(scope='module')
def case():
  config, student = flash(0)
  _, teacher = flash(1)
  batch = jax.tree.map(lambda *x: jnp.concatenate(x), row(SAMPLES, C), row(SAMPLES[::-1], C))
  return config, student, teacher.replace(compact=None, router=None), batch


@functools.partial(jax.jit, static_argnames='config')
def divergence(student, teacher, config, batch, tile_tokens):
  """KL at each position of a batch with these image tokens a tile."""
  images, _ = model.encode(student, config, batch.pixels, tile_tokens=tile_tokens)
  hidden = vico.states(student, config, batch, images, tile_tokens)
  target = vico.reference_states(teacher, config, batch)
  return vico.divergences(student, config, hidden, teacher, target)


@functools.partial(jax.jit, static_argnames='config')
def ratios_of(student, teacher, config, batch):
  """(patch features, loss ratios, valid)."""
  patches, _ = model.patches(student, config, batch.pixels)
  return patches, *vico.loss_ratios(student, config, batch, patches, reference=teacher, epsilon=1e-6)


@functools.partial(jax.jit, static_argnames='config')
def logits(weights, config, tokens, positions, **images):
  hidden = model.forward(weights, config, tokens, positions=positions, **images).hidden
  return decoder.logits(weights.language, config.language, hidden)


def response(weights, config, x):
  """float64 log-probabilities at the response tokens of one conversation by itself, padded to a common length."""
  length = len(x.tokens)
  tokens = np.pad(x.tokens, (0, 96 - length))[None]
  positions = np.pad(np.arange(length), (0, 96 - length), constant_values=-1)[None]
  images = {}
  if len(x.pixels):
    images = {'pixels': x.pixels[None]}
    images |= {'tile_tokens': x.tile_tokens[None]} if config.flash else {}
  z = np.asarray(logits(weights, config, tokens, positions, **images), np.float64)[0, : length - 1]
  return log_softmax(z, -1)[x.mask[1:]]


def divergence_alone(config, student, teacher, x, few):
  """KL(teacher ‖ student) at the response tokens of one conversation whose tiles `few` are compressed, in float64."""
  short = compress(x, config.image_token, few, config.compact_tokens)
  want = response(teacher, dataclasses.replace(config, flash=None), x)
  got = response(student, config, short)
  return (np.exp(want) * (want - got)).sum(-1)


def test_a_student_that_is_its_teacher_has_no_divergence(case):
  config, student, _, batch = case
  teacher = student.replace(compact=None, router=None)
  found = divergence(student, teacher, config, batch, batch.tile_tokens)  # ξ = 1/4: all image tokens
  assert np.abs(found).max() < 1e-6


def test_images_are_compressed_whole_and_one_by_one(case):
  config, _, _, batch = case
  images, tile_tokens = np.asarray(batch.tile_images), np.asarray(batch.tile_tokens)
  draws = np.stack([vico.draw(jax.random.key(i), config, batch) for i in range(64)])
  assert set(np.unique(draws[:, tile_tokens > 0])) == {config.compact_tokens, config.tokens_per_tile}
  assert not draws[:, tile_tokens == 0].any()
  together = []
  for r, (numbers, present) in enumerate(zip(images, tile_tokens > 0)):
    for number in np.unique(numbers[present]):
      own = draws[:, r, (numbers == number) & present]
      assert (own == own[:, :1]).all()
      together.append(own[:, 0])
  few = np.array(together) == config.compact_tokens
  assert len(few) == 6 and (abs(few.mean(1) - 0.5) < 0.25).all()
  assert np.unique(few, axis=0).shape == few.shape  # no two images share their draws


@pytest.mark.slow
def test_consistency_is_the_divergence_of_unpacked_samples(case):
  config, student, teacher, batch = case
  one = jax.tree.map(lambda x: x[:1], batch)
  few = np.asarray(one.tile_images)[0] == 1
  tile_tokens = vico.compress(config, one, few[None])
  got = np.asarray(divergence(student, teacher, config, one, tile_tokens))[0]
  segments, weights = np.asarray(one.segments)[0, 1:], np.asarray(one.weights)[0, 1:]
  tiles = np.asarray(one.tile_segments)[0]
  for number, x in enumerate(SAMPLES, 1):
    want = divergence_alone(config, student, teacher, x, few[tiles == number])
    np.testing.assert_allclose(got[(segments == number) & (weights > 0)], want, rtol=2e-3, atol=1e-5)


@pytest.mark.slow
def test_a_step_of_consistency_leaves_the_reference_and_trains_the_compact_projector(case):
  config, student, teacher, batch = case
  c = dataclasses.replace(C, model='FOLDER', objective='consistency', accumulate=2)
  start = jax.tree.map(jnp.copy, student)
  trained, frozen = sft.adapt(c, config, start)
  before = jax.tree.map(np.array, (student, teacher))
  state, step = steps.init_state(trained, sft.optimizer(c, config)), sft.make_step(c, config)
  for i in range(2):
    state, metrics = step(state, frozen, batch, jax.random.key(i), teacher)
  assert metrics['skipped'] == 0 and metrics['loss'] > 0
  jax.tree.map(np.testing.assert_array_equal, before[1], teacher)
  names = changed(before[0], steps.merge(state.params, frozen))
  assert any(name.startswith('compact.') for name in names) and any(name.startswith('language.') for name in names)


def test_no_gradient_reaches_the_reference(case):
  config, student, teacher, batch = case

  def total(teacher):
    return vico.consistency(student, config, batch, reference=teacher, key=jax.random.key(0)).total

  grads = jax.jit(jax.grad(total))(teacher)
  assert not any(np.abs(g).max() for g in jax.tree.leaves(grads))


@pytest.mark.slow
def test_loss_ratios_equal_one_run_for_each_tile(case):
  config, student, teacher, batch = case
  _, ratios, valid = ratios_of(student, teacher, config, batch)
  np.testing.assert_array_equal(valid, np.asarray(batch.tile_tokens) > 0)
  tiles = np.asarray(batch.tile_segments)[0]
  for number, x in enumerate(SAMPLES, 1):
    count = len(x.pixels)
    if not count:
      continue
    none = divergence_alone(config, student, teacher, x, np.zeros(count, bool)).mean()
    want = [divergence_alone(config, student, teacher, x, np.arange(count) == j).mean() / none for j in range(count)]
    np.testing.assert_allclose(np.asarray(ratios)[0, tiles == number], want, rtol=5e-3)


@pytest.mark.slow
def test_routing_changes_pooling_and_gating_alone(case):
  config, student, teacher, batch = case
  start = jax.tree.map(jnp.copy, student)
  trained, frozen = sft.adapt(ROUTING, config, start)
  before = jax.tree.map(np.array, student)
  state = steps.init_state(trained, sft.optimizer(ROUTING, config), sft.carry(ROUTING))
  step = sft.make_step(ROUTING, config)
  for i in range(3):
    state, metrics = step(state, frozen, batch, jax.random.key(i), teacher)
  assert metrics['skipped'] == 0
  names = changed(before, steps.merge(state.params, frozen))
  assert names and all(name.startswith(('router.pooling.', 'router.gating.')) for name in names)
  assert not any('unused' in name for name in names)
  tiles = int((np.asarray(batch.tile_tokens) > 0).sum())
  assert int(state.carry.cursor) == 3 * tiles
  assert int(np.isfinite(state.carry.values).sum()) == 3 * tiles


@pytest.mark.slow
def test_the_router_learns_which_tiles_may_be_compressed(case):
  """Its score rises where the label is 0 and falls elsewhere: index 0 of the gate means compress."""
  config, student, teacher, batch = case
  patches, ratios, valid = ratios_of(student, teacher, config, batch)
  recent = window.push(window.empty(1024), ratios, valid)
  below = np.asarray(ratios < window.percentile(recent, 50.0))

  def total(weights):
    whole = student.replace(router=weights)
    return vico.routing(whole, config, batch, recent, reference=teacher, key=None).total

  before = router.scores(student.router, patches)
  grads = jax.jit(jax.grad(total))(student.router)
  moved = jax.tree.map(lambda w, g: w - 1e-4 * g, student.router, grads)
  gain = np.asarray(router.scores(moved, patches) - before)
  mean = lambda chosen: gain[chosen & np.asarray(valid)].mean()
  assert mean(below) > mean(~below)


@pytest.mark.slow
@pytest.mark.parametrize('k', [30.0, 50.0, 70.0])
def test_the_share_of_labels_follows_the_percentile_when_the_scale_changes(k):
  r = np.random.default_rng(0)
  recent, shares = window.empty(1024), []
  push = jax.jit(window.push)
  for i in range(192):
    scale = 1.0 if i < 96 else 10.0  # of the ratios, at once
    ratios = scale * np.exp(r.normal(size=(4, 8))).astype(np.float32)
    valid = r.random((4, 8)) < 0.7
    recent = push(recent, ratios, valid)
    shares.append((ratios < window.percentile(recent, k))[valid].mean())
  assert abs(np.mean(shares[20:96]) - k / 100) < 0.03
  refilled = 96 + 2 * 1024 // 32
  assert abs(np.mean(shares[refilled:]) - k / 100) < 0.03


def test_a_window_keeps_the_last_values_in_any_order_of_masks():
  r = np.random.default_rng(1)
  recent, kept = window.empty(10), []
  assert np.isnan(window.percentile(recent, 50.0))
  for _ in range(9):
    values, valid = r.normal(size=(2, 3)).astype(np.float32), r.random((2, 3)) < 0.5
    recent = window.push(recent, values, valid)
    kept = (kept + values[valid].tolist())[-10:]
    got = np.asarray(recent.values)
    np.testing.assert_array_equal(np.sort(got[np.isfinite(got)]), np.sort(np.float32(kept)))
    if kept:
      np.testing.assert_allclose(window.percentile(recent, 30.0), np.percentile(kept, 30), rtol=1e-5)
  with pytest.raises(ValueError, match='window=10: expected at least the 12'):
    window.push(recent, np.zeros((3, 4)), np.ones((3, 4), bool))


def test_impossible_configs_are_refused(tmp_path):
  for change, why in (
    ({'trainable': 'router.*'}, 'trains the router'),
    ({'batch': 1024}, r'vico\.window=1024: expected at least the 9216'),
  ):
    with pytest.raises(ValueError, match=why):
      dataclasses.replace(ROUTING, **change)
  for c, why in (
    (dataclasses.replace(ROUTING, model='tiny-flash'), 'model=tiny-flash with objective=routing: expected the folder'),
    (dataclasses.replace(ROUTING, reference=''), r'needs config\.reference'),
  ):
    with pytest.raises(ValueError, match=why):
      program.main(c, tmp_path)


def test_impossible_labels_are_refused():
  for change, why in (
    ({'window': 1023}, '1024'),
    ({'percentile': 100.0}, 'between 0 and 100'),
    ({'epsilon': -1}, 'zero'),
  ):
    with pytest.raises(ValueError, match=why):
      Vico(**change)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['vico_consistency', 'vico_routing'])
def test_both_stages_can_be_planned(name):
  small = {'model': 'tiny-flash', 'batch': 2, 'length': 64, 'tiles': 4, 'accumulate': 1}
  c = dataclasses.replace(CONFIGS[name], **small)
  program = program_of(c, mesh.make(devices=jax.devices()[:1]))
  state, metrics = jax.eval_shape(program.step, *program.args)
  assert jax.tree.structure(state) == jax.tree.structure(program.args[0])
  assert 'reference' in program.kinds and 'not counted' in program.note and 'loss' in metrics
