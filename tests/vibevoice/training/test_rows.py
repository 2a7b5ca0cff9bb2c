"""Rows of training: the wire format of a prompt, then speech; padding; refusals; and that the loss can learn them."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

import vibevoice
from core.training import steps
from vibevoice import model
from vibevoice.inputs.prompt import Prompt
from vibevoice.training import losses, rows

CONFIG = vibevoice.CONFIGS['tiny']
START, END, SLOT, EOS = CONFIG.start, CONFIG.end, CONFIG.slot, CONFIG.eos
RNG = np.random.default_rng(0)


def drawn(n, width):
  return RNG.normal(size=(n, width)).astype(np.float32)


def example(voice=2, speech=3, text=(7, 8)):
  tokens = [5, START, *[SLOT] * voice, END, *text, START]
  slots = np.isin(np.arange(len(tokens)), np.arange(2, 2 + voice))
  return rows.Example(
    prompt=Prompt(np.asarray(tokens, np.int32), slots),
    voices=drawn(voice, CONFIG.acoustic.latent),
    latents=drawn(speech, CONFIG.acoustic.latent),
    semantic=drawn(speech, CONFIG.semantic.latent),
  )


def test_speech_follows_the_prompt():
  made = rows.row(CONFIG, example())
  assert made.tokens.tolist() == [5, START, SLOT, SLOT, END, 7, 8, START, SLOT, SLOT, SLOT, END, EOS]
  assert made.target.tolist() == [False, False, True, True, True]
  assert not made.semantic[:2].any() and made.semantic[2:].all()
  bare = rows.row(CONFIG, example(), bare=True)
  assert bare.tokens.tolist() == [START, SLOT, SLOT, SLOT, END, EOS]
  assert bare.target.all() and len(bare.latents) == 3


def test_a_batch_is_padded_on_the_right():
  made = rows.batch(CONFIG, [rows.row(CONFIG, example()), rows.row(CONFIG, example(0, 1))], length=16, frames=6)
  assert made.tokens.shape == (2, 16) and made.latents.shape == (2, 6, CONFIG.acoustic.latent)
  assert made.positions[0].tolist() == [*range(13), -1, -1, -1]
  assert made.target.sum(1).tolist() == [3, 1]
  assert made.token_weights.sum() == pytest.approx(1) and made.frame_weights.sum() == pytest.approx(1)
  assert not made.token_weights[made.positions < 0].any()


def test_what_does_not_fit_is_refused():
  long = rows.row(CONFIG, example())
  with pytest.raises(ValueError, match='row 0: 13 tokens, 3 more than the 10'):
    rows.batch(CONFIG, [long], length=10, frames=6)
  with pytest.raises(ValueError, match='row 0: 5 frames, 1 more than the 4'):
    rows.batch(CONFIG, [long], length=16, frames=4)
  made = example()
  with pytest.raises(ValueError, match='1 latents of voices for 2 slots'):
    rows.row(CONFIG, dataclasses.replace(made, voices=made.voices[:1]))
  with pytest.raises(ValueError, match='speech of 3 latents and 2 semantic'):
    rows.row(CONFIG, dataclasses.replace(made, semantic=made.semantic[:2]))


@pytest.mark.slow
def test_a_model_learns_rows_by_heart():
  """Each token of text means one latent; speech is these in order. Constants do not change."""
  voiced = [example(1, 3, text=text) for text in ((7, 8, 9), (9, 7, 7), (8, 8, 7), (9, 9, 8))]
  sounds = {token: drawn(1, CONFIG.acoustic.latent)[0] for token in (7, 8, 9)}
  said = [np.stack([sounds[int(t)] for t in e.prompt.tokens[4:7]]) for e in voiced]
  examples = [dataclasses.replace(e, latents=latents) for e, latents in zip(voiced, said, strict=True)]
  batch = rows.batch(CONFIG, [rows.row(CONFIG, e) for e in examples], length=14, frames=4)
  params = model.init(jax.random.key(0), CONFIG)
  trained, frozen = steps.partition(params, losses.TRAINABLE)

  def loss(params, batch, key):
    return losses.tts(params, CONFIG, batch, losses.draw(key, batch.latents, 8))

  tx = optax.adam(3e-3)
  state = steps.init_state(trained, tx)
  step = steps.make_step(loss, tx)
  history = []
  for i in range(150):
    state, metrics = step(state, frozen, batch, jax.random.key(i))
    history.append({name: float(value) for name, value in metrics.items()})
  first, last = history[0], history[-1]
  assert first['diffusion'] > 0.8  # the head starts with velocity 0
  assert last['diffusion'] < 0.4 * first['diffusion']
  assert last['ce'] < 0.2 * first['ce']
  assert last['loss'] == pytest.approx(last['diffusion'] + last['ce'], rel=1e-6)
  assert frozen.scaling.scale == 1
