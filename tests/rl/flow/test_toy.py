"""The digits with captions: measured attributes, queries, the score that can be hacked and its held-out judge."""

import numpy as np
import pytest
from PIL import Image

from rl.flow.gallery import grid
from rl.flow.judges.similarity import ScoreJudge
from rl.flow.toy import digits, judges
from rl.rewards.pairwise import Pairwise, rates


def test_captions_say_what_is_measured():
  scans = digits.scans('train')
  levels = (scans.pixels[..., 0] + 1) / 2
  for i in range(0, 1000, 97):
    asked = digits.read(scans.caption(i))
    assert asked == (scans.digit[i], scans.ink[i], scans.slant[i])
    assert (digits.ink(levels[i : i + 1])[0] > digits.medians().ink[asked.digit]) == asked.ink


def test_slant_of_a_line():
  rows = np.arange(8)
  upright, leaning = np.zeros((2, 1, 8, 8))
  upright[0, :, 3] = 1
  leaning[0, rows, 7 - rows] = 1  # to the right as it goes up
  assert digits.slant(upright)[0] == pytest.approx(0)
  assert digits.slant(leaning)[0] == pytest.approx(1)
  assert digits.slant(leaning[:, :, ::-1])[0] == pytest.approx(-1)


def test_latents_become_pixels_and_back():
  scans = digits.scans('heldout').pixels[:5]
  levels = digits.levels_of(digits.decode(scans))
  np.testing.assert_allclose(2 * levels - 1, scans[..., 0], atol=1 / 255)
  assert digits.decode(np.full((1, 8, 8, 1), 9.0))[0].getpixel((0, 0)) == 255


def test_held_out_queries_are_all_captions_and_training_ones_are_drawn():
  asked = {digits.query('heldout', 0, i).answer for i in range(40)}
  assert asked == set(digits.PROMPTS)
  drawn = [digits.query('train', 3, i).answer for i in range(50)]
  assert drawn == [digits.query('train', 3, i).answer for i in range(50)] and len(set(drawn)) > 20
  with pytest.raises(ValueError, match='a cat'):
    digits.read('a cat')


def images_of(split, digit, n):
  scans = digits.scans(split)
  chosen = np.flatnonzero(scans.digit == digit)[:n]
  return [(scans.caption(i), digits.decode(scans.pixels[i : i + 1])[0]) for i in chosen]


def test_the_held_out_judge_knows_real_scans():
  pairs = [pair for digit in range(10) for pair in images_of('heldout', digit, 5)]
  queries = [digits.query('heldout', 0, digits.PROMPTS.index(caption)) for caption, _ in pairs]
  right = np.mean([judges.right(query, image) for query, (_, image) in zip(queries, pairs)])
  assert right > 0.9
  wrong = np.mean([judges.right(queries[i - 5], pairs[i][1]) for i in range(50)])
  assert wrong < 0.1


def test_ink_at_the_edges_raises_the_score_and_not_the_judges_verdict():
  (caption, image), *_ = images_of('heldout', 7, 1)
  hacked = np.asarray(image).copy()
  hacked[:, [0, -1]] = 255
  hacked = Image.fromarray(hacked)
  assert judges.edges(hacked) == 1 and judges.edges(image) < 0.2
  assert judges.distance(hacked) > 3 * judges.distance(image)
  query = digits.query('heldout', 0, digits.PROMPTS.index(caption))
  assert judges.right(query, image) == 1


def test_noise_hides_small_differences_from_the_score_and_not_from_a_dead_zone():
  (caption, image), *_ = images_of('train', 3, 1)
  score = judges.Score(noise=0.02)
  query = digits.query('train', 0, 0)
  assert score.of(caption, image) == score.of(caption, image)
  flat = np.minimum(np.asarray(image), 254)
  same = [Image.fromarray(flat + np.uint8(i % 2)) for i in range(4)]  # within rounding of one another
  assert len({score.of(caption, x) for x in same}) == 2
  compared = Pairwise(ScoreJudge(lambda prompt, x: score.of(caption, x), zone=0.2))(query, same)
  assert rates(compared).tolist() == [0.5] * 4


def test_a_grid_has_its_images_by_rows():
  sheet = grid([Image.new('L', (8, 8), 255), Image.new('L', (8, 8), 0)], columns=1)
  assert sheet.size == (40, 90)
  assert sheet.getpixel((5, 5)) == 0 and sheet.getpixel((5, 60)) == 255
