"""The panels task: what the image shows is what the answer says, and examples are a function of their number."""

import collections

import numpy as np
import pytest

from core.conversations.rows import Rows
from core.toy import panels

EXAMPLES = [panels.example('train', 0, i) for i in range(300)]


def test_the_answer_has_a_word_for_each_colour_in_the_order_asked():
  for item in EXAMPLES:
    shown = {panel.colour: panel.text for panel in item.panels}
    assert sorted(item.question) == sorted(panels.COLOURS) and len(shown) == panels.PANELS
    assert item.answer.split(' ') == [colour + shown[colour] for colour in item.question]
    assert item.image.size == (panels.PANELS * panels.SIDE, panels.SIDE) and item.image.mode == 'RGB'


def test_panels_show_their_colour_and_kind():
  dark = collections.defaultdict(list)
  for item in EXAMPLES:
    for panel, pixels in zip(item.panels, np.split(np.asarray(item.image, int), panels.PANELS, axis=1)):
      ink = pixels.max(-1) < 110
      dark[panel.kind].append(ink.sum())
      nearest = min(panels.COLOURS, key=lambda c: np.abs(pixels[~ink].mean(0) - panels.COLOURS[c]).sum())
      assert nearest == panel.colour
      assert len(panel.text) == {panels.BLANK: 1, panels.LARGE: 1, panels.DENSE: panels.SMALL}[panel.kind]
  assert max(dark[panels.BLANK]) == 0 and min(dark[panels.LARGE]) >= 60 and min(dark[panels.DENSE]) >= 26
  shares = np.array([len(dark[kind]) for kind in range(len(panels.KINDS))]) / (panels.PANELS * len(EXAMPLES))
  np.testing.assert_allclose(shares, panels.SHARES, atol=0.05)


def test_small_digits_differ_at_full_resolution():
  glyphs = {glyph.tobytes() for glyph in panels._GLYPHS}
  assert len(glyphs) == 10


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
