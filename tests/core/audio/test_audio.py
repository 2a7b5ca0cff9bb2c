"""Recordings: reading by blocks, rates, spectra against direct formulas, loudness, wav files."""

import math

import numpy as np
import pytest
import soundfile

from core import audio
from core.audio import spectra

RNG = np.random.default_rng(0)


def tone(hz, seconds, rate):
  return np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize('suffix', ['wav', 'flac', 'ogg', 'mp3'])
def test_stereo_at_8_khz_becomes_mono_at_16(tmp_path, suffix):
  path = tmp_path / f'x.{suffix}'
  left = tone(440, 1, 8_000)
  soundfile.write(path, np.stack([left, np.zeros_like(left)], 1), 8_000)
  got = audio.load(path, 16_000)
  assert got.dtype == np.float32 and abs(got.size - 16_000) < 2_500  # mp3 pads its frames
  middle = got[4_000:12_000] * np.hanning(8_000)
  spectrum = np.abs(np.fft.rfft(middle))
  assert spectrum.argmax() * 2 == 440
  assert abs(np.abs(got[4_000:12_000]).max() - 0.5) < 0.02


def test_blocks_join_to_the_whole(tmp_path, monkeypatch):
  noise = RNG.normal(size=50_000).astype(np.float32) / 8
  soundfile.write(tmp_path / 'x.wav', noise, 24_000, subtype='FLOAT')
  whole = audio.load(tmp_path / 'x.wav', 16_000)
  monkeypatch.setattr('core.audio.read.BLOCK_SECONDS', 1)
  with audio.open_recording(tmp_path / 'x.wav') as recording:
    blocks = list(recording.blocks(16_000))
    again = list(recording.blocks(16_000))
  assert len(blocks) > 2 and recording.seconds == 50_000 / 24_000
  np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-6)
  np.testing.assert_array_equal(np.concatenate(blocks), np.concatenate(again))


def test_what_cannot_be_read_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'none\.wav'):
    audio.load(tmp_path / 'none.wav')
  (tmp_path / 'broken.mp3').write_bytes(bytes(RNG.integers(0, 256, 4_000, np.uint8)))
  with pytest.raises(ValueError, match=r'broken\.mp3: not a recording'):
    audio.load(tmp_path / 'broken.mp3')
  soundfile.write(tmp_path / 'empty.wav', np.zeros(0, np.float32), 16_000)
  with pytest.raises(ValueError, match=r'empty\.wav: the recording is empty'):
    audio.load(tmp_path / 'empty.wav')
  for name, value in (('nan', np.nan), ('loud', 1e30)):
    soundfile.write(tmp_path / f'{name}.wav', np.full(9, value, np.float32), 16_000, subtype='FLOAT')
    with pytest.raises(ValueError, match=rf'{name}\.wav: samples are NaN'):
      audio.load(tmp_path / f'{name}.wav')
  soundfile.write(tmp_path / 'slow.wav', np.zeros(9, np.float32), 7)
  with pytest.raises(ValueError, match=r'slow\.wav: sample rate 7 Hz'):
    audio.load(tmp_path / 'slow.wav', 16_000)
  with pytest.raises(ValueError, match='sample rate 10 Hz'):
    audio.to_rate(np.zeros(9), 10, 16_000)


def test_resampling_keeps_what_both_rates_can_hold():
  x = tone(1_000, 1, 24_000)
  y = audio.to_rate(x, 24_000, 16_000)
  assert y.size == 16_000
  np.testing.assert_allclose(y[1_000:-1_000], tone(1_000, 1, 16_000)[1_000:-1_000], atol=1e-3)
  above = audio.to_rate(tone(9_000, 1, 24_000), 24_000, 16_000)
  assert np.abs(above[1_000:-1_000]).max() < 1e-3


def test_power_spectrum_is_the_direct_sum():
  x = RNG.normal(size=90)
  size, hop = 16, 5
  padded = np.pad(x, size // 2, mode='reflect')
  window = [0.5 - 0.5 * math.cos(2 * math.pi * n / size) for n in range(size)]
  got = np.asarray(audio.power_spectrum(x.astype(np.float32), size=size, hop=hop))
  assert got.shape == (19, 9)
  for t in (0, 7, 18):
    frame = padded[t * hop : t * hop + size] * window
    for k in range(9):
      value = sum(frame[n] * np.exp(-2j * np.pi * k * n / size) for n in range(size))
      assert got[t, k] == pytest.approx(abs(value) ** 2, rel=1e-4, abs=1e-4)


def test_mel_filters_have_the_published_maxima():
  for mels, maximum in ((80, 0.02588), (128, 0.04168)):
    filters = audio.mel_filters(mels, rate=16_000, size=400)
    assert filters.shape == (mels, 201) and filters.max() == pytest.approx(maximum, abs=1e-5)
    assert (filters.max(1) > 0).all()
  np.testing.assert_allclose(spectra.mel_to_hz(spectra.hz_to_mel([0, 440, 1_000, 7_999])), [0, 440, 1_000, 7_999])


def test_loudness():
  quiet = RNG.normal(size=4_000).astype(np.float32) * 1e-3
  assert np.sqrt(np.mean(audio.at_loudness(quiet) ** 2)) == pytest.approx(10 ** (-25 / 20), rel=2e-3)
  click = np.zeros(48_000, np.float32)
  click[100] = 0.1
  assert np.abs(audio.at_loudness(click)).max() == pytest.approx(1, abs=1e-4)
  assert not audio.at_loudness(np.zeros(10)).any()


def test_wav_files(tmp_path):
  path = tmp_path / 'new' / 'x.wav'
  audio.save_wav(path, np.array([0, 0.5, -2], np.float32), 24_000)
  samples, rate = soundfile.read(path)
  assert rate == 24_000 and [p.name for p in path.parent.iterdir()] == ['x.wav']
  np.testing.assert_allclose(samples, [0, 0.5, -1], atol=1e-4)
  with pytest.raises(ValueError, match='one channel of finite'):
    audio.save_wav(path, np.zeros((2, 2)), 24_000)
