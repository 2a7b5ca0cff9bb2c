"""A small Whisper learns, resumes and is read back; its clips are what they say."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from interp import train, whisper
from interp.training import configs, model, speech
from interp.whisper import frontend

SMALL = dataclasses.replace(configs.CONFIGS['digits'], width=64, depth=1, mels=8, takes=1, held_out=3, batch=2, steps=2)


def test_each_word_is_one_token_and_the_text_comes_back():
  processor = whisper.Processor.of(model.vocabulary(), {'is_multilingual': False})
  said = ' '.join(speech.WORDS)
  tokens = processor.encode(f' {said}')
  assert len(tokens) == len(speech.WORDS) and processor.text(tokens).strip() == said
  assert max(tokens) < processor.ids.eot and processor.seconds(processor.ids.first_timestamp + 150) == 3


def test_clips_hold_their_words():
  take = tuple((np.full(100 + digit, 0.5, np.float32),) for digit in range(10))
  voices = speech.Voices((take,))
  for seed in range(20):
    samples, text = voices.clip(np.random.default_rng(seed), most=4, length=8_000)
    expected = sum(100 + speech.WORDS.index(word) for word in text.split())
    assert len(samples) == 8_000 and 1 <= len(text.split()) <= 4
    assert (samples > 0.4).sum() == expected


def test_frames_of_a_batch_are_those_of_each_row():
  samples = np.random.default_rng(0).normal(size=(2, 1_600)).astype(np.float32) * np.array([[1.0], [0.01]], np.float32)
  both = frontend.log_mels(samples, 8)
  for row, got in zip(samples, both):
    np.testing.assert_allclose(got, frontend.log_mel(row, 8, length=1_600), atol=1e-5)


def test_the_loss_is_of_the_text_and_its_end_alone():
  processor = whisper.Processor.of(model.vocabulary(), {'is_multilingual': False})
  clip = np.zeros(model.window_samples(), np.float32)
  b = model.batch(processor, [(clip, 'one two'), (clip, 'six')])
  assert b.weights.sum(1).tolist() == [3, 2]  # words and the end
  assert b.tokens[1, : b.weights[1].argmax()].tolist() == processor.prompt(timestamps=False)


@pytest.mark.slow
def test_a_run_ends_with_a_model_that_transcribes(tmp_path):
  pytest.importorskip('espeakng_loader')
  train.main(SMALL, tmp_path)
  rate = json.loads((tmp_path / 'heldout.json').read_text())['word_error_rate']
  assert rate > 0
  config, params = whisper.load(tmp_path / 'model')
  assert config.samples == model.window_samples()
  np.testing.assert_array_equal(params.positions, whisper.model.sinusoids(150, 64))
  start = whisper.init(jax.random.key(0), config)
  assert np.abs(params.decoder.embed - start.decoder.embed).max() > 0
  metrics = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert len(metrics) == 2 and not any(m['skipped'] for m in metrics)
  processor = whisper.Processor.load(tmp_path / 'model')
  samples, _ = speech.record(('m1',), takes=1, seed=0).clip(np.random.default_rng(0), most=2, length=48_000)
  options = whisper.transcription.DEFAULTS
  options = dataclasses.replace(options, timestamps=False, previous=False, temperatures=(0.0,))
  assert isinstance(whisper.transcribe(params, config, processor, samples, options), list)


@pytest.mark.long
def test_the_default_job_hears_voices_that_it_was_not_trained_on(tmp_path):
  pytest.importorskip('espeakng_loader')
  train.main(configs.CONFIGS['digits'], tmp_path)
  assert json.loads((tmp_path / 'heldout.json').read_text())['word_error_rate'] <= 0.1
