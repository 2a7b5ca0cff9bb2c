"""Digits spoken by espeak-ng."""

import json

import numpy as np
import pytest

from core import audio
from core.audio import espeak
from vibevoice.config import SAMPLE_RATE
from vibevoice.inputs.processor import Processor
from vibevoice.toy import base, digits
from vibevoice.training.recordings import listed


def pitch(samples: np.ndarray) -> float:
  """The median over 50 ms pieces, without the quiet ones, of the strongest period between 70 and 350 Hz, in Hz.

  The period of a whole word is now and then a formant's: espeak-ng jitters every call.
  """
  size = SAMPLE_RATE // 20
  pieces = samples[: len(samples) // size * size].reshape(-1, size)
  power = np.mean(pieces**2, axis=1)
  loud = pieces[power > power.mean() / 2]
  spectra = np.abs(np.fft.rfft(loud, 2 * size)) ** 2
  correlations = np.fft.irfft(spectra)
  shortest, longest = SAMPLE_RATE // 350, SAMPLE_RATE // 70
  periods = shortest + np.argmax(correlations[:, shortest:longest], axis=1)
  return SAMPLE_RATE / np.median(periods)


def test_more_words_are_longer_and_voices_differ_in_pitch():
  low, high = (digits.clip('one two three', voice) for voice in digits.VOICES)
  more = digits.clip('one two three four five six', 'low')
  assert len(more) > 1.5 * len(low)
  assert pitch(high) > 1.3 * pitch(low)
  assert np.sqrt(np.mean(low**2)) == pytest.approx(10 ** (-25 / 20), rel=1e-3)


def test_what_cannot_be_spoken_is_refused():
  with pytest.raises(espeak.EspeakError, match="voice 'nobody' is unknown"):
    espeak.speak('one', 'nobody', rate=SAMPLE_RATE)
  with pytest.raises(espeak.EspeakError, match='no sound'):
    espeak.speak('', rate=SAMPLE_RATE)


def test_heldout_sequences_are_none_of_the_training_ones():
  train, heldout = (set(digits.sequences(500, heldout=side)) for side in (False, True))
  assert len(train) == len(heldout) == 500 and not train & heldout
  assert {len(s) for s in heldout} == {3, 4, 5, 6}
  assert digits.sequences(9, heldout=True) == digits.sequences(9, heldout=True)


def test_a_folder_of_clips_is_what_training_reads(tmp_path):
  digits.write(tmp_path, train=9, heldout=2)
  before = (tmp_path / 'train.jsonl').stat().st_mtime_ns
  digits.write(tmp_path, train=5, heldout=5)  # cached
  assert (tmp_path / 'train.jsonl').stat().st_mtime_ns == before
  recordings = listed([str(tmp_path / 'train.jsonl')])
  for recording in recordings:
    assert len(audio.load(recording.audio, SAMPLE_RATE)) > 0.5 * SAMPLE_RATE
  single = [r.voices[0].stem for r in recordings if len(r.voices) == 1]
  assert single == ['high', 'low', 'high', 'low', 'high', 'low']
  line = json.loads((tmp_path / 'heldout.jsonl').read_text().splitlines()[1])
  words = line['script'].removeprefix('Speaker 1: ').split()
  assert set(words) <= set(digits.WORDS)
  assert digits.files([], tmp_path.parent / 'none', clips=1, seed=0)[0].endswith('data/train.jsonl')
  assert digits.files(['a.jsonl'], tmp_path, clips=1, seed=0) == ('a.jsonl',)


def test_two_speakers_share_the_digits_of_a_clip(tmp_path, monkeypatch):
  monkeypatch.setattr(espeak, 'speak', tone)
  digits.write(tmp_path, train=9, heldout=1)
  duets = listed([str(tmp_path / 'train.jsonl')])[:: digits.DUET]
  assert [[voice.stem for voice in r.voices] for r in duets] == [['low', 'high'], ['high', 'low'], ['low', 'high']]
  for recording in duets:
    first, second = recording.script.split('\n')
    assert first.startswith('Speaker 1: ') and second.startswith('Speaker 2: ')
    samples = audio.load(recording.audio, SAMPLE_RATE)
    third = len(samples) // 3
    heard = [pitch(samples[:third]), pitch(samples[-third:])]
    expected = [TONES[voice.stem] for voice in recording.voices]
    assert heard == pytest.approx(expected, rel=0.02)


TONES = {'low': 100, 'high': 200}  # Hz


def tone(text: str, name: str, *, rate: int, **_) -> np.ndarray:
  """A tenth of a second a letter, at the pitch of the voice that espeak-ng knows by `name`."""
  voice = next(voice for voice, (known, _) in digits.VOICES.items() if known == name)
  seconds = np.arange(len(text) * rate // 10) / rate
  return np.sin(2 * np.pi * TONES[voice] * seconds).astype(np.float32)


def test_a_word_is_one_token():
  tokenizer = base.vocabulary()
  processor = Processor(tokenizer, base.config(tokenizer))
  for word in digits.WORDS:
    assert len(processor.encode(f' {word}')) == 1
  assert max(tokenizer.get_vocab().values()) < base.VOCAB
