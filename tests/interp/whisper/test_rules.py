"""Decoding rules against their definition token by token, and searches against brute force."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.engine.sampling import Sampling
from interp import whisper
from interp.whisper import decoder
from interp.whisper.decoding import rules
from interp.whisper.decoding.beam import beam
from interp.whisper.decoding.prefill import pack
from interp.whisper.decoding.sample import sample
from tests.interp.whisper import tiny

PROCESSOR = tiny.processor(suppress_tokens=[3], begin_suppress_tokens=[32], max_initial_timestamp_index=5)
IDS = PROCESSOR.ids
VOCAB = tiny.CONFIG.vocab
T = IDS.first_timestamp


def allowed(said, logits, *, initial):
  """The tokens that may follow `said`, by the published rules read one at a time."""
  times = [t for t in said if t >= T]
  last = len(said) >= 1 and said[-1] >= T
  before = len(said) < 2 or said[-2] >= T
  out = set(range(VOCAB)) - {IDS.no_timestamps}
  if last and before:
    out -= set(range(T, VOCAB))
  if last and not before:
    out -= set(range(IDS.eot))
  if times:
    out -= set(range(T, times[-1] if last and not before else times[-1] + 1))
  if not said:
    out = {t for t in out if T <= t <= T + initial}
  weight = {t: math.exp(logits[t]) for t in out}
  texts = [w for t, w in weight.items() if t < T]
  if sum(w for t, w in weight.items() if t >= T) > max(texts, default=0):
    out = {t for t in out if t >= T}
  return out


@pytest.mark.parametrize('name', rules.NAMES)
def test_timestamps_follow_their_grammar(name):
  rng = np.random.default_rng(0)
  r = rules.of(PROCESSOR, VOCAB, name=name)
  forbidden = set(np.flatnonzero(r.banned))
  histories = [[], [T + 2], [T + 2, 65], [T, 65, T + 4], [T, 65, T + 4, T + 4], [T, 65, T + 4, T + 6, 66, 67]]
  for said in histories:
    logits = rng.normal(size=VOCAB)
    logits[list(forbidden)] = -50  # so that the two kinds of bans do not meet
    tokens = np.full((1, 8), IDS.eot, np.int32)
    tokens[0, : len(said)] = said
    got = np.asarray(r(jnp.asarray(logits[None], jnp.float32), tokens, np.array([len(said)])))[0]
    want = allowed(said, logits, initial=50 if name == 'openai' else 5) - forbidden
    if not said:
      want -= set(np.flatnonzero(r.banned_first))
    assert set(np.flatnonzero(got > -np.inf)) == want, said


def test_lists_of_suppressed_tokens():
  published = rules.of(PROCESSOR, VOCAB, name='transformers', timestamps=False)
  assert np.flatnonzero(published.banned).tolist() == [3] and np.flatnonzero(published.banned_first).tolist() == [32]
  openai = set(np.flatnonzero(rules.of(PROCESSOR, VOCAB).banned))
  assert {ord('"'), ord('['), IDS.sot, IDS.no_speech} <= openai and not {ord('a'), ord('.'), IDS.eot} & openai
  with pytest.raises(ValueError, match="rules 'mine'"):
    rules.of(PROCESSOR, VOCAB, name='mine')


def test_compression():
  assert rules.text_compression('of a little bit ' * 20) > 2.4 > rules.text_compression('a quick brown fox jumps')
  assert rules.token_compression([5, 6] * 60) > 2.4 > rules.token_compression(range(30))


def test_prompts():
  assert PROCESSOR.prompt(language='de', timestamps=False) == [IDS.sot, IDS.sot + 2, IDS.transcribe, IDS.no_timestamps]
  assert PROCESSOR.prompt(language='en', previous=[65])[:3] == [IDS.sot_prev, 65, IDS.sot]
  english = tiny.processor(is_multilingual=False)
  assert english.prompt() == [IDS.sot]
  with pytest.raises(ValueError, match="language 'fr'"):
    PROCESSOR.prompt(language='fr')
  with pytest.raises(ValueError, match='cannot translate'):
    english.prompt(task='translate')
  assert PROCESSOR.text([72, 105, T + 3, IDS.eot]) == 'Hi' and PROCESSOR.seconds(T + 3) == 0.06


@pytest.fixture(scope='module')
def audio():
  params = tiny.params()
  encoded, _ = whisper.encode(params, tiny.CONFIG, tiny.mel())
  return params.decoder, decoder.cross_keys(params.decoder, encoded)


def row_of(keys, row):
  """The keys of one audio, of layers stacked on the first axis."""
  return jax.tree.map(lambda x: x[:, row : row + 1], keys)


def only(tokens):
  """Rules that allow these tokens and the end."""
  r = rules.of(PROCESSOR, VOCAB, name='transformers', timestamps=False)
  mask = np.ones(VOCAB, bool)
  mask[[*tokens, IDS.eot]] = False
  return r.replace(banned=jnp.asarray(mask), banned_first=jnp.zeros(VOCAB, bool))


def log_probs(d, keys, row, prompt, tokens):
  """Log-probability of each next token after the prompt, under the rules of `only(65, 66)`, float64."""
  own = row_of(keys, row)
  line = np.array([[*prompt, *tokens]], np.int32)
  out = decoder.logits(d, decoder.forward(d, tiny.CONFIG, line, own).hidden)
  logits = np.asarray(out[0, len(prompt) - 1 :], np.float64)
  choices = logits[:, [65, 66, IDS.eot]]
  return choices - np.log(np.exp(choices).sum(-1, keepdims=True))


@pytest.mark.slow
def test_beam_search_of_all_beams_is_the_best_of_all_responses(audio):
  """With as many beams as there are prefixes nothing is lost: compare with every response of up to 3 tokens."""
  d, keys = audio
  prompt = [IDS.sot]
  got = beam(d, tiny.CONFIG, keys, pack([prompt] * 2, IDS.sot), only([65, 66]), new=3, no_speech=IDS.no_speech, beams=8)
  for row in range(2):
    scores = {}
    for length in range(4):
      for tokens in itertools.product((65, 66), repeat=length):
        steps = log_probs(d, keys, row, prompt, tokens)
        logp = sum(steps[i, t - 65] for i, t in enumerate(tokens))
        if length < 3:
          logp += steps[length, 2]  # the end; a response at the limit has none
        scores[tokens] = logp / max(length, 1)
    best = max(scores, key=scores.get)
    assert tuple(got.tokens[row, : int(got.count[row])].tolist()) == best


@pytest.mark.slow
def test_one_beam_is_greedy_and_rows_do_not_mix(audio):
  d, keys = audio
  r = rules.of(PROCESSOR, VOCAB)
  prompts = [PROCESSOR.prompt(language='en'), PROCESSOR.prompt(language='de', previous=[70, 71, 72])]
  options = {'new': 12, 'no_speech': IDS.no_speech}
  both = sample(d, tiny.CONFIG, keys, pack(prompts, IDS.sot), r, Sampling.of(2), **options)
  own = row_of(keys, 0)
  packed = pack(prompts[:1], IDS.sot)  # padded less than with the longer prompt
  alone = sample(d, tiny.CONFIG, own, packed, r, Sampling.of(1), **options)
  searched = beam(d, tiny.CONFIG, own, packed, r, beams=1, **options)
  for other in (alone, searched):
    np.testing.assert_array_equal(other.tokens[0], both.tokens[0])
    np.testing.assert_allclose(other.logp[0], both.logp[0], rtol=1e-4)
    np.testing.assert_allclose(other.no_speech[0], both.no_speech[0], rtol=1e-4)


@pytest.fixture(params=['greedy', 'sampling', *rules.NAMES])
def search(audio, request):
  """A function from prompts, one an audio, rules and a limit of tokens to what is decoded, greedy or by three beams."""
  d, keys = audio

  def run(prompts, r, new):
    packed = pack(prompts, IDS.sot)
    shared = {'new': new, 'no_speech': IDS.no_speech}
    if request.param in rules.NAMES:
      return beam(d, tiny.CONFIG, keys, packed, r, beams=3, style=request.param, **shared)
    heat = 1.0 if request.param == 'sampling' else 0.0
    sampling = Sampling.of(len(prompts), temperature=heat, seed=range(len(prompts)))
    return sample(d, tiny.CONFIG, keys, packed, r, sampling, **shared)

  return run


def without_end(tokens):
  """Rules that allow these tokens and never the end."""
  r = only(tokens)
  return r.replace(banned=r.banned.at[IDS.eot].set(True))


@pytest.mark.slow
def test_a_response_that_a_limit_cuts_has_not_ended(search):
  """The last position cuts the response to the first prompt, the limit of tokens that to the second."""
  prompts = [PROCESSOR.prompt(language='en', previous=[70] * 30), PROCESSOR.prompt(language='en')]
  room = tiny.CONFIG.text_length + 1 - len(prompts[0])
  new = room + 3
  cut = search(prompts, without_end([65, 66]), new)
  assert cut.count.tolist() == [room, new] and not cut.ended.any()
  whole = search(prompts, only([]), new)
  assert whole.count.tolist() == [0, 0] and whole.ended.all()
