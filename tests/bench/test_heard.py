"""What a recogniser hears of spoken digits."""

import numpy as np
import pytest
from PIL import Image

from bench.speech import heard, spectrograms

TIME = np.arange(2 * heard.RATE) / heard.RATE


def tone(pitch: float, *, bright: float) -> np.ndarray:
  """Harmonics of a pitch in Hz, the second half of them louder by `bright`."""
  weights = np.where(np.arange(1, 11) > 5, bright, 1.0)
  return sum(w * np.sin(2 * np.pi * pitch * n * TIME) for n, w in enumerate(weights, 1)).astype(np.float32) * 0.05


@pytest.mark.parametrize(
  'text, found',
  [('four three four', '434'), (' 34, 0 oh 4.', '34004'), ('Zero Seven', '07'), ('New York 767', '767'), ('', '')],
)
def test_digits_in_figures_and_words(text, found):
  assert heard.digits(text) == found


@pytest.mark.parametrize(
  'transcript, right',
  [('four, five, 1', 3), ('4 5', 2), ('4 7 1', 2), ('4 5 1 9', 2), ('nothing', 0), ('9 9 9 9 9 9', 0)],
)
def test_edits_and_additions_cost(transcript, right):
  script = 'Speaker 1: four five\nSpeaker 2: one'
  assert heard.digits_right(script, transcript) == heard.Count(right, 3)


def test_voices_are_told_apart_and_an_exchange_is_seen():
  voices = {'dark': tone(120, bright=0.1), 'bright': tone(210, bright=3.0)}
  rows = [{'voices': [name], 'script': f'Speaker 1: {word}'} for name, word in (('dark', 'one'), ('bright', 'two'))]
  rows.append({'voices': ['dark', 'bright'], 'script': 'Speaker 1: one\nSpeaker 2: two'})
  recordings = [*voices.values(), np.concatenate(list(voices.values()))]
  exchanged = [voices['bright'], voices['dark'], recordings[2][::-1].copy()]
  clips = {'recording': recordings, 'speech': exchanged}
  results = heard.measure(rows, clips, lambda samples: 'one two')
  assert results['recording']['voices'] == {'right': 4, 'total': 4}
  assert results['speech']['voices'] == {'right': 0, 'total': 4}
  assert results['recording']['digits'] == {'right': 2, 'total': 4}


def test_the_picture_has_a_row_a_clip_and_a_column_a_kind(tmp_path):
  rows = [{'voices': ['dark'], 'script': f'Speaker 1: {word}'} for word in ('one', 'two')]
  clips = {kind: [tone(120, bright=0.1), tone(210, bright=3.0)[:9000]] for kind in ('recording', 'speech')}
  results = {kind: {'transcripts': ['one', 'two <b>$x']} for kind in clips}
  spectrograms.draw(tmp_path / 'heard.png', rows=rows, clips=clips, results=results, rate=heard.RATE)
  with Image.open(tmp_path / 'heard.png') as image:
    assert image.width > 2 * image.height > 200
