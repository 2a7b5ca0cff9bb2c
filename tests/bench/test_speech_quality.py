"""Quality of speech against recordings: pairs of files, a codec, packages that are missing, predictors."""

import json
import sys
import types

import numpy as np
import pytest
import soundfile

import vibevoice
from bench.speech import quality, run
from tests.vibevoice import tiny

RATE = 24_000


@pytest.fixture
def folder(tmp_path):
  """Two recordings, and each of them at nine tenths of its amplitude and a little longer."""
  for i in range(2):
    clip = tiny.clip(4800, i)
    soundfile.write(tmp_path / f'{i}-recording.wav', clip, RATE, subtype='FLOAT')
    soundfile.write(tmp_path / f'{i}-speech.wav', np.pad(0.9 * clip, (0, 500)), RATE, subtype='FLOAT')
  return tmp_path


def main(folder, *flags):
  return run.main(['run', f'--references={folder}/*-recording.wav', f'--out={folder}/out.json', *flags])


def absent(monkeypatch, *modules):
  for module in modules:
    monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.slow
def test_pairs_are_compared_and_missing_packages_are_named(folder, monkeypatch, capsys):
  absent(monkeypatch, 'pesq', 'pystoi', 'resemblyzer')
  assert main(folder, f'--made={folder}/*-speech.wav') == 0
  got = json.loads((folder / 'out.json').read_text())
  assert got['means']['snr'] == pytest.approx(20, abs=1e-3)
  assert got['means']['mel'] == pytest.approx(-np.log10(0.9), rel=1e-3)
  assert set(got['skipped']) == {'pesq', 'stoi', 'similarity'} and len(got['rows']) == 2
  assert "pesq: left out, needs pesq: pip install -e '.[speech]'" in capsys.readouterr().out


def test_packages_get_16_khz_and_a_predictor_hears_both_sides(folder, monkeypatch):
  seen = []
  absent(monkeypatch, 'pystoi', 'resemblyzer')
  fake = types.SimpleNamespace(pesq=lambda rate, a, b, mode: seen.append((rate, len(a), len(b), mode)) or 3.0)
  monkeypatch.setitem(sys.modules, 'pesq', fake)
  loudness = types.SimpleNamespace(
    rms=lambda samples, rate: float(np.sqrt(np.mean(samples[:4800] ** 2))) * (rate == RATE)
  )
  monkeypatch.setitem(sys.modules, 'my_mos', loudness)
  assert main(folder, f'--made={folder}/*-speech.wav', '--mos=my_mos:rms') == 0
  got = json.loads((folder / 'out.json').read_text())['means']
  assert seen == [(16_000, 3200, 3200, 'wb')] * 2 and got['pesq'] == 3
  assert got['mos'] == pytest.approx(0.9 * got['mos_reference'], rel=1e-4)


@pytest.mark.slow
def test_a_codec_is_measured(folder, monkeypatch):
  absent(monkeypatch, 'pesq', 'pystoi', 'resemblyzer')
  vibevoice.save(folder / 'model', tiny.CONFIG, tiny.params())
  assert main(folder, f'--codec={folder}/model') == 0
  means = json.loads((folder / 'out.json').read_text())['means']
  assert means['real_time_factor'] > 0 and np.isfinite(means['mel']) and means['snr'] < 20


@pytest.mark.parametrize(
  ('flags', 'code', 'message'),
  [
    ((), 2, 'expected one of the two'),
    (('--made=x', '--codec=y'), 2, 'expected one of the two'),
    (('--made=nothing/*.wav',), 1, 'nothing/*.wav: no such file'),
    (('--made={folder}/0-speech.wav',), 1, '2 references and 1 files'),
    (('--made={folder}/*-speech.wav', '--mos=numpy'), 2, 'expected module:function'),
    (('--made={folder}/*-speech.wav', '--mos=numpy:no_such'), 1, 'no_such'),
  ],
)
def test_refusals(folder, capsys, flags, code, message):
  assert main(folder, *(flag.format(folder=folder) for flag in flags)) == code
  assert message in capsys.readouterr().err


def test_every_metric_is_best_for_equal_clips():
  clip = tiny.clip(4800)
  worse = clip + 0.05 * tiny.clip(4800, 1)
  better = {'mel': -1, 'snr': 1}
  for name, sign in better.items():
    with np.errstate(divide='ignore'):
      equal, other = (quality.METRICS[name].compute(clip, made) for made in (clip, worse))
    assert sign * equal > sign * other
