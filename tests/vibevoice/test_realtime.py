"""Realtime against a transcription of the published loop: no caches, no streams; and text that still arrives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import decoder
from core.files.tokenizers import TextEncoder, byte_tokenizer
from tests.vibevoice import tiny
from vibevoice import connector, realtime, scaling, tokenizer
from vibevoice.config import CONFIGS
from vibevoice.diffusion import Guidance, diffusion_head, solver_steps
from vibevoice.generation import realtime as generation
from vibevoice.generation import words

C = CONFIGS['tiny-realtime']
STEPS, SCALE, SEED = 3, 1.6, 4
TRANSCRIPT = [72, 105, 33, 10]
FRAMES = np.random.default_rng(1).standard_normal((6, C.head.latent)).astype(np.float32)
TEXT = [84, 104, 105, 115, 32, 105, 115, 10]  # a window of five and one of three
PADDED = 64


@pytest.fixture(scope='module')
def params():
  drawn = tiny.draw(realtime.spec(C))
  never = drawn.stop.replace(out=drawn.stop.out * 0, out_bias=jnp.full(1, -3.0))
  return drawn.replace(stop=never)


@jax.jit
def low(p, x):
  return decoder.forward(p, C.lower, x[None]).hidden[0]


@jax.jit
def high(p, x, length):
  return decoder.forward(p, C.upper, x[None]).hidden[0, length - 1]


@jax.jit
def latent(head, noise, positive, negative):
  guidance = Guidance(jnp.float32(SCALE), negative[None])
  return diffusion_head(head, noise[None], positive[None], solver_steps(head, STEPS), guidance=guidance)[0]


def padded(vectors):
  out = np.zeros((PADDED, len(vectors[0])), np.float32)
  out[: len(vectors)] = vectors
  return out


def transcription(p, text, count):
  """The first `count` frames of a text, every hidden state recomputed from the whole context."""
  embed, types = np.asarray(p.lower.embed), np.asarray(p.types)
  hear = lambda y: np.asarray(connector.apply(p.connector, y[None, None]))[0, 0] + types[0]
  reading = lambda ids: np.asarray(low(p.lower, padded(embed[ids])))[: len(ids)] + types[1]
  read = list(TRANSCRIPT)
  positive = [*map(hear, FRAMES), *reading(read)]
  negative = list(reading([C.negative]))
  latents = []
  text = list(text)
  while len(latents) < count:
    window, text = text[: generation.TEXT_WINDOW], text[generation.TEXT_WINDOW :]
    if window:
      read += window
      positive += list(reading(read)[-len(window) :])
    for _ in range(generation.SPEECH_WINDOW):
      stream = jax.random.fold_in(jax.random.key(SEED), 2**31 - 1)
      noise = jax.random.normal(jax.random.fold_in(stream, len(latents)), (C.head.latent,))
      conditions = [high(p.upper, padded(context), len(context)) for context in (positive, negative)]
      y = np.asarray(latent(p.head, noise, *conditions))
      latents.append(y)
      positive.append(hear(y))
      negative.append(hear(y))
  z = scaling.to_tokenizer(p.scaling, np.stack(latents[:count]))
  return np.asarray(tokenizer.decode(p.acoustic, C.acoustic, z[None]))[0]


def speech(p, voice, tokens, count):
  made = generation.speech(p, C, voice, tokens, scale=SCALE, steps=STEPS, seed=SEED)
  return np.concatenate(list(itertools.islice(made, count)))


@pytest.mark.slow
def test_windows_equal_the_published_loop(params):
  voice = generation.build_voice(params, C, TRANSCRIPT, FRAMES)
  want = transcription(params, TEXT, 14)
  got = speech(params, voice, TEXT, 14)
  np.testing.assert_allclose(got[: 6 * tiny.HOP], want[: 6 * tiny.HOP], atol=1e-4)
  np.testing.assert_allclose(got, want, atol=2e-3)  # feedback amplifies rounding from frame to frame


@pytest.mark.slow
def test_text_is_taken_only_when_its_window_is_due(params):
  voice = generation.build_voice(params, C, TRANSCRIPT, FRAMES)
  taken = []

  def arriving():
    for token in TEXT:
      taken.append(token)
      yield token

  made = generation.speech(params, C, voice, arriving(), scale=SCALE, steps=STEPS, seed=SEED)
  next(made)
  assert len(taken) == 5
  for _ in range(6):
    next(made)
  assert taken == TEXT


@pytest.mark.slow
def test_the_classifier_ends_the_speech(params):
  voice = generation.build_voice(params, C, TRANSCRIPT, FRAMES)
  always = params.replace(stop=params.stop.replace(out_bias=jnp.full(1, 3.0)))
  assert len(list(generation.speech(always, C, voice, TEXT, steps=STEPS))) == 1
  with pytest.raises(ValueError, match='no text'):
    next(generation.speech(params, C, voice, []))


TEXTS = [
  '  The \u201cfirst\u201d  words, 3.14 of them: caf\u00e9 \u2019s\n\n done. ',
  'one',
  'a b',
  'tab\tand  two spaces x',
]


@pytest.mark.parametrize('text', TEXTS)
@pytest.mark.parametrize('size', [1, 2, 5, 100])
def test_text_in_pieces_has_the_tokens_of_the_whole(text, size):
  encode = TextEncoder(byte_tokenizer(['<|endoftext|>']))
  pieces = [text[i : i + size] for i in range(0, len(text), size)]
  whole = ' '.join(text.strip().split(' ')).translate(words.ASCII_QUOTES)
  assert list(words.tokens_of(pieces, encode)) == encode(whole + '\n')


def test_words_are_given_out_before_the_text_ends():
  given = []
  words_seen = words.tokens_of(iter(['Say this', ' now']), lambda s: given.append(s) or [0])
  next(words_seen)
  assert given == ['Say']
  with pytest.raises(ValueError, match='no text'):
    list(words.tokens_of([' ', '\n'], lambda s: [0]))
