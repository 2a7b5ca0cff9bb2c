"""The training loss against its formula in float64, and what must not reach it."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import vibevoice
from core.params import path_name
from vibevoice import diffusion, model
from vibevoice.diffusion.schedule import signal_levels
from vibevoice.training import losses

CONFIG = vibevoice.CONFIGS['tiny']
RNG = np.random.default_rng(0)
START, END, SLOT, EOS = CONFIG.start, CONFIG.end, CONFIG.slot, CONFIG.eos
# A voice prompt of two frames and three target frames; no voice prompt, two target frames, padding.
TOKENS = np.array(
  [
    [5, START, SLOT, SLOT, END, 6, 7, START, SLOT, SLOT, SLOT, END, EOS],
    [5, 8, 9, 6, START, SLOT, SLOT, END, EOS, EOS, EOS, EOS, EOS],
  ],
  np.int32,
)
POSITIONS = np.where(np.arange(13) < [[13], [9]], np.arange(13), -1).astype(np.int32)
TARGET = np.array([[False, False, True, True, True], [True, True, False, False, False]])
CONDITIONED_BY = {(0, 2): 7, (0, 3): 8, (0, 4): 9, (1, 0): 4, (1, 1): 5}  # (row, frame) -> position before its slot


@pytest.fixture(scope='module')
def params(drawn):
  return drawn(model.spec(CONFIG))


@pytest.fixture(scope='module')
def batch():
  made = losses.Batch(
    tokens=TOKENS,
    positions=POSITIONS,
    latents=RNG.normal(size=(2, 5, CONFIG.acoustic.latent)).astype(np.float32),
    semantic=RNG.normal(size=(2, 5, CONFIG.semantic.latent)).astype(np.float32),
    target=TARGET,
  )
  return losses.weigh(CONFIG, made)


@pytest.fixture(scope='module')
def draws(batch):
  return losses.draw(jax.random.key(1), batch.latents, 3)


@functools.partial(jax.jit, static_argnames=('weights', 'prompt_semantic'))
def loss(params, batch, draws, **options):
  return losses.tts(params, CONFIG, batch, draws, **options)


@pytest.fixture(scope='module')
def outputs(params, batch):
  """Hidden states and logits of the sequences, as float64."""
  frames = model.Frames(batch.latents, semantic=batch.semantic, spoken=batch.target)
  out = model.apply(params, CONFIG, batch.tokens, frames, positions=batch.positions)
  return np.asarray(out.hidden, np.float64), np.asarray(out.logits, np.float64)


@pytest.mark.slow
def test_the_loss_is_its_formula(params, batch, draws, outputs):
  hidden, logits = outputs
  logp = log_softmax(logits, -1)
  labels = [(b, t) for b in range(2) for t in range(1, 13) if POSITIONS[b, t] >= 0 and TOKENS[b, t] != SLOT]
  ce = -np.mean([logp[b, t - 1, TOKENS[b, t]] for b, t in labels])

  errors = []
  for (b, f), position in CONDITIONED_BY.items():
    for m in range(3):
      t = int(draws.timesteps[m, b, f])
      level = signal_levels()[t].astype(np.float64)
      y, noise = batch.latents[b, f], np.asarray(draws.noise[m, b, f])
      noisy = np.sqrt(level) * y + np.sqrt(1 - level) * noise
      wanted = np.sqrt(level) * noise - np.sqrt(1 - level) * y
      condition = hidden[b, position][None].astype(np.float32)
      noisy = noisy[None].astype(np.float32)
      got = diffusion.velocity(params.head, CONFIG.head, noisy, jnp.array([t]), condition)[0]
      errors.append(np.sum((np.asarray(got, np.float64) - wanted) ** 2))
  frames = np.sum(errors) / (CONFIG.acoustic.latent * 3 * len(CONDITIONED_BY))

  got = loss(params, batch, draws, weights=losses.Weights(ce=0.04, diffusion=1.4))
  assert float(got.total / got.weight) == pytest.approx(0.04 * ce + 1.4 * frames, rel=1e-5)
  parts = {name: float(total / weight) for name, (total, weight) in got.metrics.items()}
  assert parts['ce'] == pytest.approx(0.04 * ce, rel=1e-5)
  assert sum(parts.values()) == pytest.approx(float(got.total / got.weight), rel=1e-6)


def test_micro_batches_add_up_to_the_batch(params, batch, draws):
  whole = loss(params, batch, draws)
  halves = []
  for row in (0, 1):
    part = jax.tree.map(lambda x, row=row: x[row : row + 1], batch)
    drawn = jax.tree.map(lambda x, row=row: x[:, row : row + 1], draws)
    halves.append(loss(params, part, drawn))
  assert sum(float(half.total) for half in halves) == pytest.approx(float(whole.total), rel=1e-5)
  assert sum(float(half.weight) for half in halves) == pytest.approx(1)


@pytest.fixture(scope='module')
def gradients(params, batch, draws):
  """Of the loss, by parameters and by noise."""

  def total(params, noise):
    return loss(params, batch, draws.replace(noise=noise)).total

  return jax.jit(jax.grad(total, argnums=(0, 1)))(params, draws.noise)


def test_only_target_frames_are_learned(gradients):
  reached = np.abs(np.asarray(gradients[1])).max((0, 3)) > 0
  np.testing.assert_array_equal(reached, TARGET)


def test_constants_get_no_gradient(gradients):
  moved = {name: any(np.any(g) for g in jax.tree.leaves(part)) for name, part in vars(gradients[0]).items()}
  trained = {'language', 'head', 'acoustic_connector', 'semantic_connector'}
  assert moved == {name: name in trained for name in moved}
  names = [path_name(path) for path, _ in jax.tree.leaves_with_path(gradients[0])]
  assert {name.split('.')[0] for name in names if re.fullmatch(losses.TRAINABLE, name)} == trained


def test_no_condition_sees_its_own_frame(params, batch):
  @jax.jit
  @jax.grad
  def by_latents(latents):
    frames = model.Frames(latents, semantic=batch.semantic, spoken=batch.target)
    hidden = model.forward(params, CONFIG, batch.tokens, frames, positions=batch.positions).hidden
    return losses.conditions(hidden, batch.tokens == SLOT, 5)[0, 3].sum()

  seen = np.abs(by_latents(batch.latents)).max(-1) > 0
  np.testing.assert_array_equal(seen, [[True, True, True, False, False], [False] * 5])


def test_semantic_features_of_prompts_are_a_switch(params, batch, draws):
  changed = batch.replace(semantic=np.where(TARGET[..., None], batch.semantic, 9))
  assert float(loss(params, changed, draws).total) == float(loss(params, batch, draws).total)
  with_switch = [float(loss(params, b, draws, prompt_semantic=True).total) for b in (batch, changed)]
  assert abs(with_switch[0] - with_switch[1]) > 1e-4


def test_weights_of_labels(batch):
  labelled = batch.token_weights > 0
  expected = (POSITIONS > 0) & (TOKENS != SLOT)
  np.testing.assert_array_equal(labelled, expected)
  with_slots = losses.weigh(CONFIG, batch, slots=True).token_weights > 0
  target_slots = np.zeros_like(expected)
  target_slots[0, 8:11] = target_slots[1, 5:7] = True
  np.testing.assert_array_equal(with_slots, expected | target_slots)
  with pytest.raises(ValueError, match='row 1: 2 slots; expected 5'):
    losses.weigh(CONFIG, batch.replace(target=np.ones_like(TARGET)))


def test_timesteps_are_drawn_from_all_training_steps(batch):
  t = losses.draw(jax.random.key(0), jnp.zeros((40, 100, 1)), 4).timesteps
  assert t.min() == 0 and t.max() == 999
  assert abs(float(t.mean()) - 499.5) < 10
