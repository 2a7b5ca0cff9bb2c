"""The paper's questions on a tiny model: what is planted is found, and groups keep voices and sentences apart."""

import json

import numpy as np
import pytest

from interp.loops import Component
from interp.loops.clips import words
from interp.questions import charts, findings
from interp.questions.bias import SHARES, Bias, Sentence, _Study, white_noise
from interp.questions.layers import Answer, answers
from interp.questions.lenses import Lenses, lenses
from interp.questions.pairs import PAIRS
from interp.questions.sentences import BY_LANGUAGE, ENGLISH
from interp.questions.speech import EACH, POOLS, SNR, VOICES, Speech, _noisy
from interp.whisper.config import RATE
from interp.whisper.decoding.window import Recogniser
from interp.whisper.options import Options
from tests.interp.whisper import tiny


def test_each_voice_has_sentences_of_its_own():
  assert len(set(ENGLISH)) == len(ENGLISH) >= EACH * len(VOICES)
  assert len(VOICES) == 2 * POOLS and {len(set(s)) for s in BY_LANGUAGE.values()} == {10}
  assert all(VOICES[2 * i][0] == 'm' and VOICES[2 * i + 1][0] == 'f' for i in range(POOLS))


@pytest.mark.parametrize('kind', ['white', 'pink', 'babble'])
def test_noise_has_the_stated_power(kind):
  rng = np.random.default_rng(0)
  samples = np.sin(np.arange(RATE) / 9).astype(np.float32)
  others = [rng.standard_normal(3_000) for _ in range(8)]
  noise = _noisy(samples, kind, others, rng) - samples
  ratio = 10 * np.log10(np.mean(samples**2) / np.mean(noise**2))
  assert ratio == pytest.approx(SNR, abs=0.01)
  power = np.abs(np.fft.rfft(noise)) ** 2
  octaves = power[4_000:8_000].sum() / power[500:1_000].sum()  # of white noise 8, of pink 1
  assert octaves < 2 if kind == 'pink' else octaves > 2


@pytest.mark.slow
def test_probes_find_a_tone_and_not_shuffled_labels(tmp_path):
  rng = np.random.default_rng(0)
  labels = ('low', 'high') * 24
  pitch = {'low': 300.0, 'high': 2_000.0}
  time = np.arange(tiny.CONFIG.samples) / RATE
  clips = tuple(np.sin(pitch[label] * 2 * np.pi * time) + rng.standard_normal(len(time)) for label in labels)
  groups = tuple(str(i // 2 % 12) for i in range(len(labels)))
  speech = Speech(clips, groups, {'pitch': labels})
  (found,) = answers(tiny.params(), tiny.CONFIG, speech, samples=tiny.CONFIG.samples // 2)
  assert found.layers.accuracy.shape == (3,) and found.layers.accuracy.min() > 0.9 and found.mel.accuracy[0] > 0.9
  assert found.layers.control.max() < 0.8 and found.layers.items == 12
  charts.probes([found, Answer('again', found.layers, found.mel)])
  assert json.loads(json.dumps(findings.numbers([found], None, None)))['probes']['pitch']['groups'] == 12


@pytest.mark.slow
def test_the_last_layers_say_what_the_model_says():
  """Every token is decided at some layer; the encoder's last layer is what the decoder reads."""
  options = Options(timestamps=False, previous=False, temperatures=(0.0,), tokens=12)
  r = Recogniser(tiny.params(), tiny.CONFIG, tiny.processor(), options)
  windows = [0.1 * np.random.default_rng(i).standard_normal(4_000).astype(np.float32) for i in range(2)]
  seen = lenses(r, windows)
  own = r(
    r.keys(np.stack([_mel(x) for x in windows])), [r.processor.prompt(language='en', timestamps=False)] * 2, [0, 0]
  )
  assert [row[-1].text for row in seen.heard] == [result.text for result in own]
  assert seen.decided.sum() == sum(len(result.tokens) + 1 for result in own)
  assert seen.errors[-1] == 0 and len(seen.loops) == 3
  assert np.isfinite(seen.curves['entropy']).all() and seen.curves['probability'].shape == (3,)
  assert len(findings.summary([], seen, None)) == 4
  charts.lenses(seen)


def _mel(samples):
  from interp.whisper import frontend

  return frontend.log_mel(samples, tiny.CONFIG.mels, length=tiny.CONFIG.samples)


def test_pairs_are_of_words_that_differ_and_fit_the_sentence():
  assert all(sentence.count('{}') == 1 and expected != spoken for sentence, expected, spoken in PAIRS)
  for sentence, expected, spoken in PAIRS:
    assert not {expected, spoken} & set(words(sentence.format('')))


def test_a_verdict_is_of_whole_words():
  sentence = Sentence(np.zeros(1), expected='rice', spoken='lice')
  texts = ('Lice, and beans', 'with rice.', 'with price', 'with lice, not rice')
  assert [sentence.verdict(text) for text in texts] == ['right', 'biased', 'other', 'right']


@pytest.mark.slow
def test_noise_blended_with_noise_is_noise():
  options = Options(timestamps=False, previous=False, temperatures=(0.0,), tokens=6)
  r = Recogniser(tiny.params(), tiny.CONFIG, tiny.processor(), options)
  study = _Study(r)
  c = tiny.CONFIG
  noise = Sentence(white_noise(c.samples), 'expected', 'spoken')
  tone = Sentence(np.sin(np.arange(4_000) / 3).astype(np.float32), 'expected', 'spoken')
  for share in SHARES:
    same = study._encoder_texts(_mel(noise.samples)[None], share)
    assert same == [study.text(noise)] * 2 * c.encoder_depth
    texts = [
      *study._encoder_texts(_mel(tone.samples)[None], share),
      *study._decoder_texts(_mel(tone.samples)[None], share),
    ]
    assert len(texts) == len(study.components) and len(set(texts)) > 1
  table = study.right_without([tone])
  assert table.shape == (1, len(SHARES), len(study.components)) and not table.any()
  found = Bias(('biased', 'right'), study.components, table, table)
  assert len(findings.summary([], None, found)) == 4 + 2 * findings.SHOWN_BRANCHES
  assert json.loads(json.dumps(findings.numbers([], None, found)))['bias']['shares'] == [0.5, 1.0]
  charts.bias(found)


def test_sides_of_the_model_are_counted_apart():
  parts = (Component('encoder.mlp_out', 0), Component('mlp_out', 0))
  recovered = np.array([[[True, False]], [[False, True]], [[False, False]]])
  found = Bias(('biased',) * 3, parts, recovered, recovered[:0])
  sides = [found.any(side).tolist() for side in findings.SIDES]
  assert sides == [[True, False, False], [False, True, False], [True, True, False]]


def test_shares_of_silent_and_looping_layers():
  from interp.loops.outcomes import Outcome

  said, dots, loop = Outcome('one two', 2, 1.0, 0.0), Outcome(' . .', 2, 1.0, 0.0), Outcome('on on on on', 9, 5.0, 1.0)
  seen = Lenses(np.zeros(4), {}, ((dots, loop, said), (dots, said, said)))
  assert seen.silent.tolist() == [1, 0, 0] and seen.loops.tolist() == [0, 0.5, 0]
  assert seen.errors.tolist() == [1, 1, 0]
