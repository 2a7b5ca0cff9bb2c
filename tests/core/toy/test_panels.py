"""The panels task: what the image shows is what the answer says, and examples are a function of their number."""

import collections

import numpy as np
import pytest

from core.conversations.rows import Rows
from core.toy import panels

EXAMPLES = [panels.example('train', 0, i) for i in range(300)]


def test_the_answer_has_a_word_for_each_letter_in_the_order_asked():
  for item in EXAMPLES:
    shown = {panels.letter(panel.colour, i): text for panel in item.panels for i, text in enumerate(panel.text)}
    assert len(shown) == panels.PANELS * panels.QUARTERS
    letters = item.question.split('?')[:-1]
    assert item.answer == ''.join(letter + shown[letter] for letter in letters)
    assert len(set(letters)) == len(letters) == panels.PANELS * panels.ASKED
    assert item.image.size == (panels.PANELS * panels.SIDE, panels.SIDE) and item.image.mode == 'RGB'


def test_every_panel_is_asked_about_equally_often_and_every_quarter_at_all():
  asked = collections.Counter(''.join(item.question for item in EXAMPLES))
  assert len(asked) == panels.PANELS * panels.QUARTERS + 1  # and the question mark
  for item in EXAMPLES:
    for panel in item.panels:
      own = {panels.letter(panel.colour, i) for i in range(panels.QUARTERS)}
      assert len(own & set(item.question)) == panels.ASKED


def distance(a, b):
  """Distance between two colours, independent of brightness."""
  return np.abs(a / np.sum(a) - np.divide(b, np.sum(b))).sum()


def test_panels_show_their_colour_and_kind():
  dark = collections.defaultdict(list)
  for item in EXAMPLES:
    for panel, pixels in zip(item.panels, np.split(np.asarray(item.image, int), panels.PANELS, axis=1)):
      ink = pixels.max(-1) < 80
      dark[panel.kind].append(ink.sum())
      nearest = min(panels.COLOURS, key=lambda c: distance(pixels[~ink].mean(0), panels.COLOURS[c]))
      assert nearest == panel.colour
      assert len(panel.text) == panels.QUARTERS
      assert (panel.text == '-' * panels.QUARTERS) == (panel.kind == panels.BLANK)
      assert panel.kind == panels.DENSE or len(set(panel.text)) == 1
  assert max(dark[panels.BLANK]) == 0 and min(dark[panels.LARGE]) >= 60 and min(dark[panels.DENSE]) >= 26
  shares = np.array([len(dark[kind]) for kind in range(len(panels.KINDS))]) / (panels.PANELS * len(EXAMPLES))
  np.testing.assert_allclose(shares, panels.SHARES, atol=0.05)


def test_small_digits_differ_at_full_resolution_and_keep_to_their_quarters():
  glyphs = {glyph.tobytes() for glyph in panels._GLYPHS}
  assert len(glyphs) == 10
  half = panels.SIDE // 2
  for item in EXAMPLES[:50]:
    for panel, pixels in zip(item.panels, np.split(np.asarray(item.image, int), panels.PANELS, axis=1)):
      if panel.kind != panels.DENSE:
        continue
      ink = pixels.max(-1) < 80
      quarters = [ink[row : row + half, column : column + half] for row in (0, half) for column in (0, half)]
      for quarter, digit in zip(quarters, panel.text):
        assert quarter.sum() == panels._GLYPHS[int(digit)].sum()


def test_examples_depend_on_their_number_alone(tmp_path):
  again = panels.example('train', 0, 7)
  assert again.image.tobytes() == EXAMPLES[7].image.tobytes() and again[1:] == EXAMPLES[7][1:]
  others = [panels.example('train', 1, 7), panels.example('heldout', 0, 7), EXAMPLES[8]]
  assert all(other.image.tobytes() != again.image.tobytes() for other in others)
  rows = Rows(panels.export(tmp_path, 'train', 0, 3))
  talk, images, _ = rows[2]
  assert len(rows) == 3 and talk[-1]['content'] == EXAMPLES[2].answer and len(images) == 1
  with pytest.raises(ValueError, match="unknown split 'test'"):
    panels.example('test', 0, 0)
