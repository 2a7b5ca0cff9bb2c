"""The study chooses on one half and counts on the other, and its measures are what they say."""

import json
import types
from typing import get_args

import numpy as np
import pytest

from interp.loops import Component, Settings, coverage, find, loops, page, search
from interp.loops.__main__ import Way
from interp.loops.clips import Clip, clips, transcript, word_errors
from interp.loops.manipulations import MANIPULATIONS, stretched
from interp.loops.outcomes import Outcome
from interp.loops.search import Score
from interp.loops.study import damage
from interp.whisper.decoding.rules import text_compression
from tests.interp.whisper import tiny

A, B, C = Component('cross_z', 1, 2), Component('z', 0, 1), Component('mlp_out', 2)
LOOPING = Outcome('on and on and on', 60, 9.0, 1.0)
PLAIN = Outcome('one two three four', 4, 1.0, 0.0)


class Planted:
  """Outcomes of a model that loops for one of two reasons: A by even clips, B by odd ones. C is needed to speak."""

  recogniser = types.SimpleNamespace(config=tiny.CONFIG)

  def __call__(self, clip, sets):
    return [self._one(clip, parts) for parts in sets]

  def _one(self, clip, parts):
    reason = A if clip.window % 2 == 0 else B
    if clip.manipulation == 'backwards' and not {reason, C} & set(parts):
      return LOOPING
    return Outcome('', 0, 0.0, 0.0) if C in parts else PLAIN


INPUTS = [Clip('talk', i, way, np.zeros(4, np.float32)) for i in range(8) for way in ('unchanged', 'backwards')]


@pytest.mark.slow
def test_the_search_finds_both_reasons_and_not_what_silences_the_model(tmp_path):
  lines = []
  found = find(Planted(), INPUTS, Settings(size=3, shortlist=40), progress=lines.append)
  assert lines[0].startswith('8 of 16 clips loop: backwards 8')
  assert not set(found.chosen) & set(found.held) and len(found.chosen) == len(found.held) == 4
  assert {A, B} == set(found.sets[1].parts)
  assert found.sets[1].ended == 1 and found.rounds[1][0].score == Score(1.0, 0.0)
  single = {one.parts[0]: one.score for one in found.rounds[0]}
  assert single[C] == Score(1.0, 1.0) and found.rounds[0][-1].parts == (C,)
  assert found.by_clip.any(0).all() and len(found.controls) == 10
  assert all(control.ended == 0 or {A, B} & set(control.parts) for control in found.controls)
  assert found.sets[1].damage == 0 and all(control.damage == 0 for control in found.controls)
  assert damage(Planted(), INPUTS[:4:2], [(C,), (A,)]).tolist() == [1, 0]
  page.write(tmp_path, found, {'talk': {'with': 0.1, 'without': 0.2}})
  assert json.loads(json.dumps(page.numbers(found, {})))['sets'][1]['ended'] == 1
  html = (tmp_path / 'loops.html').read_text()
  assert 'talk-1-backwards' in html and 'on and on' in html


def test_a_study_without_loops_is_an_error():
  with pytest.raises(ValueError, match='0 clips that loop, 8 that do not'):
    find(Planted(), INPUTS[::2], Settings(), progress=lambda line: None)


def test_controls_are_of_the_same_kinds_and_others():
  candidates = [Component('z', 0, head) for head in range(4)] + [C]
  sets = search.controls((candidates[0], candidates[1]), candidates, 5, np.random.default_rng(0))
  assert all(set(parts) == set(candidates[2:4]) for parts in sets)
  with pytest.raises(ValueError, match="0 components of kind 'mlp_out'"):
    search.controls((C,), candidates, 1, np.random.default_rng(0))


def test_coverage_is_that_of_a_phrase_said_three_times_in_a_row():
  assert coverage([1, 2, 3] * 3) == 1
  assert coverage([1, 2, 1, 2]) == 0
  assert coverage([9, 5, 5, 5, 8, 7]) == 0.5
  assert coverage(range(50)) == coverage([]) == 0
  said = ' little bit of a' * 30
  assert loops(text_compression(said)) and not loops(text_compression('And so my fellow Americans ask not'))


def test_stretching_keeps_pitch_and_changes_length():
  t = np.arange(16_000) / 16_000
  tone = np.sin(2 * np.pi * 440 * t).astype(np.float32)
  np.testing.assert_allclose(stretched(tone, 1.0)[2_000:-2_000], tone[2_000:-2_000], atol=1e-3)
  for factor in (0.5, 2.0):
    out = stretched(tone, factor)
    assert len(out) == 16_000 * factor
    middle = out[len(out) // 4 : 3 * len(out) // 4]
    peak = np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle)))))
    assert abs(peak * 16_000 / len(middle) - 440) < 5
    assert 0.6 < middle.std() / tone.std() < 1.4
  higher = MANIPULATIONS['high'](tone, np.random.default_rng(0))
  assert abs(len(higher) - 16_000) < 50


def test_each_manipulation_does_what_it_says():
  t = np.arange(16_000) / 16_000
  low, high = (np.sin(2 * np.pi * hertz * t).astype(np.float32) for hertz in (400, 3_000))
  rng = np.random.default_rng(0)

  def changed(way, x):
    return MANIPULATIONS[way](x, rng)

  np.testing.assert_allclose(changed('muffled', low + high), low, atol=1e-5)
  spectrum = np.abs(np.fft.rfft(changed('mirrored', low)))
  assert spectrum.argmax() == 7_600
  np.testing.assert_array_equal(changed('turned', changed('turned', high)), high)
  click = np.eye(1, 16_000, 100, dtype=np.float32)[0]
  assert np.flatnonzero(changed('echoes', click)).tolist() == [100, 8_100]  # the others come after the end
  assert set(MANIPULATIONS) == set(get_args(Way))


def test_clips_are_windows_under_every_manipulation_and_repeatable(tmp_path):
  from core.audio import save_wav

  path = tmp_path / 'talk.wav'
  rng = np.random.default_rng(0)
  save_wav(path, 0.1 * rng.standard_normal(16_000 * 5 // 2).astype(np.float32), 16_000)
  made = list(clips(path, ('unchanged', 'spliced', 'slow'), length=16_000))
  assert [clip.window for clip in made] == [0, 0, 0, 1, 1, 1]  # half a second is left out
  assert all(len(clip.samples) <= 16_000 for clip in made)
  assert sorted(made[1].samples) == sorted(made[0].samples)
  again = list(clips(path, ('unchanged', 'spliced', 'slow'), length=16_000))
  assert [clip.digest for clip in again] == [clip.digest for clip in made]
  with pytest.raises(ValueError, match='no transcript'):
    transcript(path)
  path.with_suffix('.txt').write_text('One, two!')
  assert word_errors(transcript(path), "one four's") == (1, 2)
