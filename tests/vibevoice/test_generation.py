"""Generation against a transcription of the published loop: one row, no caches, no streams, no batch."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import decoder
from core.params import fold
from tests.vibevoice import tiny
from vibevoice import connector, generation, scaling, tokenizer
from vibevoice.diffusion import Guidance, diffusion_head, solver_steps
from vibevoice.generation import Given, host, prefill
from vibevoice.generation.int8 import head_quantised, quantised

C = tiny.CONFIG
START, END, SLOT, EOS = C.start, C.end, C.slot, C.eos
STEPS = 3
SCALE = 1.7


LONGEST = 40  # tokens of the loop's contexts, which are padded so that each part of it compiles once
FRAMES = 12  # of the loop's segments


@jax.jit
def hidden(language, context, length):
  """The hidden state after the first `length` embeddings of a padded context."""
  return decoder.forward(language, C.language, context[None]).hidden[0, length - 1]


@jax.jit
def sound(p, segment, count):
  """(samples, semantic features) of the last of `count` latents of a padded segment, each computed in one piece."""
  wav = tokenizer.decode(p.acoustic, C.acoustic, segment[None])
  heard = tokenizer.encode(p.semantic, C.semantic, wav)
  return wav.reshape(FRAMES, tiny.HOP)[count - 1], heard[0, count - 1]


@jax.jit
def latent(head, noise, condition, negative, scale):
  guidance = Guidance(scale, negative[None])
  return diffusion_head(head, noise[None], condition[None], solver_steps(head, STEPS), guidance=guidance)[0]


@jax.jit
def frame_embedding(p, y, heard):
  return connector.apply(p.acoustic_connector, y[None, None]) + connector.apply(p.semantic_connector, heard[None, None])


def padded(vectors, length):
  out = np.zeros((length, len(vectors[0])), np.float32)
  out[: len(vectors)] = vectors
  return out


class Loop:
  """The loop of one row as published, recomputing everything from lists."""

  def __init__(self, x, noise, scale):
    p = self.p = tiny.params()
    self.noise, self.scale = noise, np.float32(scale)
    context = self.embed(x.tokens)
    if x.voices:
      voices = prefill.voice_latents(p, C, x.voices, seed=0, sample=False)
      context[x.slots] = np.asarray(connector.apply(p.acoustic_connector, voices[None]))[0]
    self.context = list(context)
    self.negative, self.segment, self.audio = [], [], []

  def embed(self, tokens):
    return np.array(self.p.language.embed)[np.asarray(tokens)]

  def hidden(self, context):
    return np.asarray(hidden(self.p.language, padded(context, LONGEST), len(context)))

  def likeliest(self):
    """(the likeliest of the four tokens of speech, of all tokens)."""
    logits = np.asarray(self.p.language.embed) @ self.hidden(self.context)
    return max((EOS, START, END, SLOT), key=lambda t: logits[t]), int(logits.argmax())

  def take(self, token):
    if token == END:
      self.segment = []
    if token == START:
      self.negative = []
    following = self.speak() if token == SLOT else self.embed(token)
    self.context.append(following)

  def speak(self):
    self.negative.append(self.context[-1])
    condition, negative = self.hidden(self.context), self.hidden(self.negative)
    y = latent(self.p.head, self.noise[len(self.audio)], condition, negative, self.scale)
    self.segment.append(np.asarray(scaling.to_tokenizer(self.p.scaling, y)))
    wav, heard = sound(self.p, padded(self.segment, FRAMES), len(self.segment))
    self.audio.append(np.asarray(wav))
    return np.asarray(frame_embedding(self.p, y, heard))[0, 0]


def noise_of(rows, frames, seed=0):
  return np.random.default_rng(seed).standard_normal((rows, frames, C.acoustic.latent)).astype(np.float32)


def run(inputs, *, at_once=1, **options):
  """(tokens [steps, B], audio of each row, the generation)."""
  made = generation.begin(tiny.params(), C, inputs, steps=STEPS, scale=SCALE, sample_voices=False, **options)
  frames = list(made.frames(at_once=at_once))
  audio = [[f.samples[row] for f in frames if f.spoken[row]] for row in range(len(inputs))]
  return np.stack([f.tokens for f in frames]), audio, made


PROMPTS = [tiny.prompt(9, (tiny.clip(3 * tiny.HOP - 5),)), tiny.prompt(14, seed=1), tiny.prompt(5, seed=2)]
FORCED = np.array(
  [
    # Two segments; the second row continues without START; the third ends early and waits.
    [SLOT, SLOT, END, START, SLOT, SLOT, END, EOS],
    [SLOT, SLOT, END, SLOT, SLOT, SLOT, END, EOS],
    [SLOT, SLOT, EOS, SLOT, SLOT, SLOT, SLOT, SLOT],
  ],
  np.int32,
)


@pytest.fixture(scope='module')
def forced():
  """(noise, tokens [steps, B], audio, generation) of the three rows together."""
  noise = noise_of(3, 8)
  return noise, *run(PROMPTS, given=Given(noise=noise, tokens=FORCED), limit=8)


@pytest.mark.parametrize('row', [0, 1, 2])
def test_each_row_of_a_ragged_batch_is_the_published_loop(forced, row):
  noise, _, audio, _ = forced
  loop = Loop(PROMPTS[row], noise[row], SCALE)
  for token in FORCED[row]:
    if token == EOS:
      break
    loop.take(token)
  assert len(audio[row]) == len(loop.audio) >= 2
  np.testing.assert_allclose(np.stack(audio[row]), np.stack(loop.audio), atol=1e-4 * np.std(loop.audio))


def test_a_finished_row_says_end_of_text_and_stays_untouched(forced):
  noise, tokens, _, made = forced
  assert tokens[2:, 2].tolist() == [EOS] * (len(tokens) - 2)
  short = run(PROMPTS, given=Given(noise=noise, tokens=FORCED), limit=3)[2].state
  state = made.state
  assert int(state.frames[2]) == 2 and bool(state.finished[2]) and not bool(state.truncated[2])
  mine = lambda s: [np.asarray(x[..., 2, :, :]) for x in jax.tree.leaves((s.decoder, s.encoder))]
  for late, early in zip(mine(state), mine(short)):
    np.testing.assert_array_equal(late, early)
  for branch in (2, 5):
    for late, early in zip(state.cache.k, short.cache.k):
      np.testing.assert_array_equal(late[branch], early[branch])
    np.testing.assert_array_equal(state.cache.positions[branch], short.cache.positions[branch])


def drawn(seed, frames):
  """The noise of a row, by the rule that makes it independent of its batch."""
  stream = jax.random.fold_in(jax.random.key(seed), 2**31 - 1)
  keys = [jax.random.fold_in(stream, frame) for frame in range(frames)]
  return [np.asarray(jax.random.normal(key, (C.acoustic.latent,))) for key in keys]


@pytest.mark.slow
@pytest.mark.parametrize('prompt', PROMPTS)
def test_greedy_choices_are_the_likeliest_of_the_four_tokens(prompt):
  """Free-running: the same tokens and frames as the loop; other tokens, though likelier, are never chosen."""
  tokens, audio, made = run([prompt], seed=3, limit=6, at_once=4)
  loop = Loop(prompt, drawn(3, 6), SCALE)
  for token in tokens[:, 0]:
    choice, outside = loop.likeliest()
    assert token == choice != outside
    loop.take(choice)
  assert len(audio[0]) == len(loop.audio)
  if audio[0]:
    np.testing.assert_allclose(audio[0], loop.audio, atol=2e-4)
  assert bool(made.state.truncated[0]) == (tokens[-1, 0] != EOS)


@pytest.mark.slow
def test_rows_do_not_depend_on_their_batch_nor_on_the_look_of_the_host():
  tokens, audio, _ = run(PROMPTS, temperature=1.0, seed=5, limit=7, at_once=16)
  for row, prompt in enumerate(PROMPTS):
    alone, spoken, _ = run([prompt], temperature=1.0, seed=5 + row, limit=7)
    assert alone[:, 0].tolist() == tokens[: len(alone), row].tolist()
    np.testing.assert_allclose(spoken[0], audio[row], atol=2e-4)
  assert any(audio)


@pytest.mark.slow
def test_caches_grow_and_change_nothing():
  given = Given(noise=noise_of(1, 10), tokens=np.full((1, 10), SLOT))
  prompt = tiny.prompt(30, seed=4)
  wide = run([prompt], given=given, limit=10, at_once=16)[1][0]
  programs = host._advance._cache_size()
  _, got, made = run([prompt], given=given, limit=10, at_once=2, smallest_cache=32)
  assert made.state.cache.capacity == 64
  assert host._advance._cache_size() == programs + 2  # one a size: growing uses what was compiled before it was due
  # Feedback amplifies rounding from frame to frame, here by about a half.
  np.testing.assert_allclose(got[0][:5], wide[:5], atol=1e-4)
  np.testing.assert_allclose(got[0], wide, atol=1e-3)
  assert len(wide) == 10 and bool(made.state.truncated[0])


@pytest.mark.slow
def test_scale_one_has_no_negative_branch():
  given = Given(noise=noise_of(1, 2), tokens=np.array([[SLOT, SLOT, EOS]]))
  made = generation.begin(tiny.params(), C, [PROMPTS[2]], steps=STEPS, scale=1, given=given)
  frames = list(made.frames())
  assert made.state.cache.positions.shape[0] == 1
  loop = Loop(PROMPTS[2], given.noise[0], 1.0)
  loop.take(SLOT)
  loop.take(SLOT)
  np.testing.assert_allclose(np.stack([f.samples[0] for f in frames[:2]]), loop.audio, atol=1e-4)


def test_bad_options():
  with pytest.raises(ValueError, match='no prompts'):
    generation.begin(tiny.params(), C, [])
  with pytest.raises(ValueError, match='limit=0'):
    generation.begin(tiny.params(), C, PROMPTS, limit=0)
  context = C.language.max_length
  with pytest.raises(ValueError, match=f'prompt 1 of {context} tokens is 1 too long'):
    generation.begin(tiny.params(), C, [PROMPTS[0], tiny.prompt(context)])


@pytest.mark.slow
def test_logits_that_are_not_numbers_end_in_an_error():
  params = tiny.params()
  broken = params.replace(language=params.language.replace(norm=params.language.norm * jnp.nan))
  made = generation.begin(broken, C, [PROMPTS[0]], steps=1, limit=3)
  with pytest.raises(ValueError, match='row 0: the logits after 0 tokens'):
    list(made.frames())


def test_cache_sizes():
  sizes = [host.slots_for(n, 1024, 64) for n in (1, 64, 65, 200, 900, 1024)]
  assert sizes == [64, 64, 128, 256, 1024, 1024]


@pytest.mark.slow
def test_steps_copy_no_cache():
  made = generation.begin(tiny.params(), C, [PROMPTS[2]], steps=STEPS, limit=3)
  options = (made._settings, jnp.int32(1))
  lowered = host._advance.lower(made._params, C, made.state, *options, buffer=host.AT_ONCE)
  text = lowered.compile().as_text()
  slots, heads, size = made.state.cache.capacity, C.language.kv_heads, C.language.head_dim
  buffer = rf'f32\[2,{heads},(?:{slots},{size}|{size},{slots})\]'
  assert re.search(rf'= {buffer}\S* (?:fusion|scatter)', text), 'the update of a cache was not found'
  assert not re.search(rf'= {buffer}\S* copy', text)


@pytest.mark.slow
@pytest.mark.parametrize(('part', 'shrink'), [('language', quantised), ('head', head_quantised)])
def test_int8_weights_are_smaller_and_speak_as_their_rounded_values(part, shrink):
  params = tiny.params()
  small = shrink(params)
  size = lambda blocks: sum(w.size * w.dtype.itemsize for w in jax.tree.leaves(blocks))
  ratio = size(getattr(small, part).blocks) / size(getattr(params, part).blocks)
  assert 0.25 < ratio < 0.6  # of float32, scales included; the head's modulations stay as they are
  for other in {'language', 'head', 'acoustic', 'semantic'} - {part}:
    kept, given = (jax.tree.leaves(getattr(tree, other)) for tree in (small, params))
    assert given and all(one is same for one, same in zip(kept, given, strict=True))

  def latents(weights):
    noise = np.random.default_rng(0).standard_normal((1, 4, C.head.latent)).astype(np.float32)
    given = Given(noise=noise, tokens=np.full((1, 4), C.slot, np.int32))
    made = generation.begin(weights, C, [tiny.prompt(12)], steps=2, limit=4, given=given, smallest_cache=64)
    return np.stack([frame.latents[0] for frame in made.frames()])

  got = latents(small)
  np.testing.assert_allclose(got, latents(fold(small)), atol=1e-4)
  exact = latents(params)
  gap = np.abs(got - exact)[0].max() / exact.std()  # of the first frame: feedback amplifies it in later ones
  assert 1e-5 < gap < 0.1
