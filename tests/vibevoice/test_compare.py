"""How far speech is from a recording."""

import dataclasses
import json

import numpy as np
import pytest

import vibevoice
from core import audio
from tests.vibevoice import tiny
from vibevoice import compare
from vibevoice.config import SAMPLE_RATE
from vibevoice.training import reconstruction

ACOUSTIC = tiny.CONFIG.acoustic


def test_the_distance_is_over_the_shorter_clip_and_ignores_padding():
  recording = tiny.clip(3000)
  made = tiny.clip(4100, seed=1)
  got = compare.distance(recording, made)
  assert compare.distance(made, recording) == pytest.approx(got, rel=1e-5)
  # Spectra next to the end include the padding, so the mean over the clip alone differs a little.
  alone = reconstruction.mel_distance(recording[None], made[None, :3000])
  assert got == pytest.approx(float(alone[0]), rel=0.05)
  assert compare.distance(recording, recording) == 0
  assert compare.distance(recording, 0.5 * recording) == pytest.approx(np.log10(2), rel=0.05)


def test_clips_of_many_lengths_share_programs(monkeypatch):
  shapes = set()

  def measured(a, b):
    shapes.add((a.shape, b.shape))
    return np.zeros(1)

  monkeypatch.setattr(reconstruction, 'mel_distance', measured)
  for length in range(2048, 8193, 500):
    compare.distance(tiny.clip(length), tiny.clip(9000))
  assert len(shapes) <= 5


def test_the_codec_is_heard_at_the_length_of_the_recording():
  params = tiny.params().acoustic
  recording = tiny.clip(3 * tiny.HOP + 5)
  means = vibevoice.tokenizer.encode(params, ACOUSTIC, recording[None])
  want = np.asarray(vibevoice.tokenizer.decode(params, ACOUSTIC, means))[0, : len(recording)]
  got = compare.through_codec(params, ACOUSTIC, recording)
  np.testing.assert_allclose(got, want, atol=1e-5 * want.std())


@pytest.mark.slow
def test_each_clip_has_three_wav_files_and_a_row_of_results(tmp_path):
  config = dataclasses.replace(tiny.CONFIG, language=dataclasses.replace(tiny.CONFIG.language, max_length=256))
  vibevoice.save(tmp_path / 'model', config, tiny.params(), layout='transformers')
  tiny.processor().tokenizer.save_pretrained(tmp_path / 'model')
  audio.save_wav(tmp_path / 'a.wav', tiny.clip(4000), SAMPLE_RATE)
  line = json.dumps({'script': 'Speaker 1: Hi.', 'audio': 'a.wav'})
  (tmp_path / 'list.jsonl').write_text(line + '\n')
  out = tmp_path / 'out'
  flags = [f'--model={tmp_path}/model', f'--data={tmp_path}/list.jsonl', f'--out={out}', '--silence=0']
  assert compare.main(['compare', *flags]) == 0
  (row,) = json.loads((out / 'results.json').read_text())
  recording, codec, speech = (
    audio.load(out / f'0000-{kind}.wav', SAMPLE_RATE) for kind in ('recording', 'codec', 'speech')
  )
  assert len(recording) == len(codec) == 4000
  assert row['speech_seconds'] == len(speech) / SAMPLE_RATE > 0
  assert row['codec_mel'] > 0 and row['speech_mel'] > 0
  assert compare.main(['compare', *flags[:2]]) == 2
