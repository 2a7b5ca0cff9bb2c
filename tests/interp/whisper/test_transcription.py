"""Long recordings: segments, batches, options; and the times of words."""

import dataclasses
import itertools
import tracemalloc

import numpy as np
import pytest

from core.audio import Word
from interp import whisper
from interp.whisper import alignment, frontend, words
from interp.whisper.config import RATE
from interp.whisper.decoding.window import Recogniser, Result
from interp.whisper.options import Options
from interp.whisper.transcription import Recording, segments, steps
from tests.interp.whisper import tiny

PROCESSOR = tiny.processor()
T = PROCESSOR.ids.first_timestamp
WINDOW = segments.Window(start=100, size=40)


def result(*tokens):
  return Result(tokens, PROCESSOR.text(tokens), temperature=0.0, avg_logp=-0.5, no_speech=0.1, compression=1.0)


@pytest.mark.parametrize(
  ('tokens', 'spans', 'advance'),
  [
    # Two pairs: the rest is heard again from the last time on.
    ((T, 65, T + 5, T + 5, 66, T + 9, T + 9, 67), [(1.0, 1.1), (1.1, 1.18)], 18),
    # A single time at the end: the window is complete.
    ((T, 65, T + 5, T + 5, 66, T + 9), [(1.0, 1.1), (1.1, 1.18)], 40),
    ((T, 65, T + 9), [(1.0, 1.18)], 40),
    ((T, 65), [(1.0, 1.4)], 40),
    ((65, 66), [(1.0, 1.4)], 40),
  ],
)
def test_text_is_cut_at_pairs_of_times(tokens, spans, advance):
  found, got = segments.cut(result(*tokens), WINDOW, PROCESSOR)
  assert [(s.start, s.end) for s in found] == spans and got == advance


def sound(seconds, seed=0):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=int(seconds * RATE)) * 0.1).astype(np.float32)


@pytest.mark.slow
def test_batches_give_the_text_of_single_windows():
  options = Options(language='en', timestamps=False, previous=False, temperatures=(0.0, 0.7), tokens=8, best_of=2)
  audio = sound(1.7)
  one = whisper.transcribe(tiny.params(), tiny.CONFIG, PROCESSOR, audio, options)
  three = whisper.transcribe(tiny.params(), tiny.CONFIG, PROCESSOR, audio, dataclasses.replace(options, batch=3))
  assert len(one) >= 3 and [s.tokens for s in one] == [s.tokens for s in three]
  assert [s.start for s in one] == [s.start for s in three]


@pytest.mark.slow
def test_windows_follow_one_another_to_the_end():
  seen = []
  options = Options(no_speech=None, temperatures=(0.0,), tokens=8, words=True)
  found = whisper.transcribe(
    tiny.params(), tiny.CONFIG, PROCESSOR, sound(1.0), options, progress=lambda *at: seen.append(at)
  )
  assert seen[-1] == (1.0, 1.0) and seen == sorted(seen)
  for s in found:
    assert 0 <= s.start < s.end and ''.join(w.text for w in s.words) == s.text
    assert all(w.start <= w.end for w in s.words)


@pytest.mark.slow
@pytest.mark.parametrize('beams', [1, 2])
def test_recordings_advance_together_with_the_text_of_their_own_runs(beams):
  """Windows that depend on the one before, prompts of many lengths, fallback; the recordings end at different times."""
  shared = {'temperatures': (0.0, 0.7), 'no_speech': None, 'beams': beams, 'seed': 3}
  options = Options(tokens=16, **shared)  # with the longest prompts no position is left for 16
  own = [sound(seconds, seed) for seed, seconds in enumerate((1.1, 0.5, 1.7))]
  alone = [whisper.transcribe(tiny.params(), tiny.CONFIG, PROCESSOR, x, options) for x in own]
  assert len({s.tokens for found in alone for s in found}) > 3
  r = Recogniser(tiny.params(), tiny.CONFIG, PROCESSOR, dataclasses.replace(options, batch=2))
  recordings = [Recording(x, tiny.CONFIG) for x in own]
  together = {recording: [] for recording in recordings}
  complete = []
  for step in steps(r, recordings):
    together[step.recording] += step.segments
    complete += [step.recording] * step.last
  assert len(complete) == 3 and set(complete) == set(recordings)
  for recording, found in zip(recordings, alone):
    got = together[recording]
    assert [(s.start, s.end, s.tokens, s.temperature) for s in got] == [
      (s.start, s.end, s.tokens, s.temperature) for s in found
    ]


def test_bad_options_and_audio_are_named():
  with pytest.raises(ValueError, match='beams=0'):
    Options(beams=0)
  for samples in (np.zeros((2, 9)), np.zeros(0)):
    with pytest.raises(ValueError, match='one channel'):
      whisper.transcribe(tiny.params(), tiny.CONFIG, PROCESSOR, samples)
  with pytest.raises(ValueError, match="language 'xx'"):
    whisper.transcribe(tiny.params(), tiny.CONFIG, PROCESSOR, sound(0.1), Options(language='xx'))


@pytest.mark.parametrize('value', [np.nan, -np.inf, 1e30])  # the power of the last is infinite
def test_samples_without_a_finite_power_are_refused(value):
  bad = np.full(9, value, np.float32)
  with pytest.raises(ValueError, match='the samples: samples are NaN, infinite or beyond'):
    Recording(bad, tiny.CONFIG)
  with pytest.raises(ValueError, match='the stream: samples are NaN, infinite or beyond'):
    Recording(lambda: iter([sound(1), bad]), tiny.CONFIG)


def test_a_stream_of_blocks_has_the_frames_of_the_whole(monkeypatch):
  """At any sizes of blocks, also where the recording ends at or near the edge of one."""
  monkeypatch.setattr(frontend, 'BLOCK', 50 * 160)
  for samples in (16, 1_000, 49 * 160 + 7, 100 * 160, 229 * 160 + 1):
    audio = sound(samples / RATE)
    padded = np.pad(audio, (0, -len(audio) % 160 + 160 * 60))
    whole = frontend.log_power(padded, 8)
    for size in (160 * 50, 333 * 7, 10**6):
      blocks = (audio[at : at + size] for at in range(0, len(audio), size))
      got = np.concatenate(list(frontend.log_powers(blocks, 8)))
      frames = len(audio) // 160 + 3  # with all that hear a sample
      np.testing.assert_allclose(got[:frames], whole[:frames], atol=1e-4)
      assert (got[frames:] == got.min()).all()


def test_windows_of_a_recording_are_those_of_its_frames():
  c, audio = tiny.CONFIG, sound(1.3)
  recording = Recording(audio, c)
  padded = np.pad(audio, (0, c.samples))
  frames = frontend.scaled(frontend.log_power(padded, c.mels))
  assert recording.frames == 130 and recording.seconds == 1.3
  for start, size in ((0, 40), (13, 40), (13, 40), (100, 30), (5, 40)):
    window = recording.window(start, size)
    np.testing.assert_allclose(window[:size], frames[start : start + size], atol=1e-5)
    assert window.shape == (40, 8) and not window[size:].any()
  with pytest.raises(ValueError, match='the stream: the recording is empty'):
    Recording(lambda: iter([]), c)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recording():
  """Half an hour that is made as it is read, in both passes; a whole one would take 115 MB, and its frames 58."""
  block = sound(30)
  Recording(block, tiny.CONFIG)  # compiles
  tracemalloc.start()
  recording = Recording(lambda: itertools.repeat(block, 60), tiny.CONFIG)
  for start in range(0, recording.frames, 4000):
    recording.window(start, 40)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert recording.seconds == 1800 and peak < 16e6


def test_the_path_is_the_cheapest_of_all():
  rng = np.random.default_rng(0)
  cost = rng.normal(size=(3, 5)).astype(np.float32)
  rows, columns = alignment.warp(cost)

  def paths(i, j):
    if (i, j) == (2, 4):
      yield [(i, j)]
    for di, dj in ((1, 1), (1, 0), (0, 1)):
      if i + di < 3 and j + dj < 5:
        yield from ([(i, j), *rest] for rest in paths(i + di, j + dj))

  best = min(paths(0, 0), key=lambda path: sum(cost[at] for at in path))
  assert list(zip(rows.tolist(), columns.tolist())) == best
  assert all(b >= a for a, b in itertools.pairwise(rows))


def test_planted_attention_gives_its_times():
  weights = np.full((2, 4, 60), 0.01)
  for token, start in enumerate((0, 15, 30, 45)):
    weights[:, token, start : start + 15] = 1
  weights[:, :, 59] = 5  # a frame that all attend to alike
  np.testing.assert_allclose(alignment.starts(alignment.sharpness(weights)), [0, 15, 30, 45], atol=1)


def test_words_and_their_marks():
  tokens = PROCESSOR.encode(' say “no”, née!')
  groups = words.split(tokens, PROCESSOR, 'en')
  texts = [PROCESSOR.text(g) for g in groups]
  assert ''.join(texts) == ' say “no”, née!' and ' say' in texts and 'é' in ''.join(texts)
  assert all('\ufffd' not in text for text in texts)
  line = [Word(t, i, i + 1) for i, t in enumerate((' say', ' “', 'no', '”', ',', ' then', '.'))]
  assert [(w.text, w.start, w.end) for w in words.joined(line)] == [(' say', 0, 1), (' “no”,', 1, 5), (' then.', 5, 7)]
