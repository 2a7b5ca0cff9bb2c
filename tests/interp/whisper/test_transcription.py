"""Long recordings: segments, batches, options; and the times of words."""

import dataclasses
import itertools

import numpy as np
import pytest

from core.audio import Word
from interp import whisper
from interp.whisper import alignment, frontend, transcription, words
from interp.whisper.config import RATE
from interp.whisper.decoding.window import Result
from interp.whisper.options import Options
from tests.interp.whisper import tiny

PROCESSOR = tiny.processor()
T = PROCESSOR.ids.first_timestamp
WINDOW = transcription._Window(start=100, size=40)


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
  segments, got = transcription.cut_segments(result(*tokens), WINDOW, PROCESSOR)
  assert [(s.start, s.end) for s in segments] == spans and got == advance


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
  segments = whisper.transcribe(
    tiny.params(), tiny.CONFIG, PROCESSOR, sound(1.0), options, progress=lambda *at: seen.append(at)
  )
  assert seen[-1] == (1.0, 1.0) and seen == sorted(seen)
  for s in segments:
    assert 0 <= s.start < s.end and ''.join(w.text for w in s.words) == s.text
    assert all(w.start <= w.end for w in s.words)


def test_bad_options_and_audio_are_named():
  with pytest.raises(ValueError, match='windows are independent only'):
    Options(batch=2)
  with pytest.raises(ValueError, match='beams=0'):
    Options(beams=0)
  with pytest.raises(ValueError, match='one channel of finite'):
    whisper.transcribe(tiny.params(), tiny.CONFIG, PROCESSOR, np.full(9, np.nan))
  with pytest.raises(ValueError, match="language 'xx'"):
    whisper.transcribe(tiny.params(), tiny.CONFIG, PROCESSOR, sound(0.1), Options(language='xx'))


def test_blocks_of_the_frontend_join(monkeypatch):
  audio = sound(2.3)[: 229 * 160]
  whole = frontend.log_power(audio, 8)
  monkeypatch.setattr(frontend, 'BLOCK', 50 * 160)
  np.testing.assert_allclose(frontend.log_power(audio, 8), whole, atol=1e-4)


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
