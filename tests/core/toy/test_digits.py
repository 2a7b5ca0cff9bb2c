"""The digits task: exact answers, disjoint images, streams that resume."""

import numpy as np
import pytest

from core.conversations.rows import Rows
from core.toy import digits


def half_images(split):
  scans = digits.scans(split)
  return {scan.tobytes() for scan in scans.pixels}


def test_train_and_heldout_images_are_disjoint_and_complete():
  train, heldout = half_images('train'), half_images('heldout')
  assert not train & heldout
  assert len(digits.scans('train').labels) + len(digits.scans('heldout').labels) == 1797
  for split in digits.SPLITS:
    shares = np.bincount(digits.scans(split).labels) / len(digits.scans(split).labels)
    assert shares.min() > 0.09 and shares.max() < 0.11


def test_answers_follow_from_the_digits_and_the_image_shows_them():
  scans = digits.scans('heldout')
  label = {}
  for scan, digit in zip(scans.pixels, scans.labels):
    label.setdefault(scan.tobytes(), set()).add(int(digit))
  for item in digits.examples('heldout', 1, 3000):
    left, right = item.digits
    assert item.image.size == (32, 16) and item.image.mode == 'RGB'
    halves = [np.asarray(item.image)[:, i : i + 16].tobytes() for i in (0, 16)]
    assert left in label[halves[0]] and right in label[halves[1]]
    if item.question == 'Sum?':
      assert int(item.answer) - left == right
    elif item.question == 'Larger?':
      assert left != right and int(item.answer) in (left, right) and int(item.answer) >= max(left, right)
    else:
      assert item.answer == {True: 'yes', False: 'no'}[left % 2 == right % 2]


def test_streams_resume_differ_by_seed_and_ask_everything():
  whole = digits.examples('train', 5, 9000)
  same = lambda a, b: a[1:] == b[1:] and a.image.tobytes() == b.image.tobytes()
  assert all(map(same, whole[4090:4110], digits.examples('train', 5, 20, start=4090)))
  assert not all(map(same, whole[:20], digits.examples('train', 6, 20)))
  assert not all(map(same, whole[:20], digits.examples('train', 5, 20, start=digits._BLOCK)))
  asked = [sum(e.question == q for e in whole) / len(whole) for q in digits.QUESTIONS]
  assert max(asked) - min(asked) < 0.05
  with pytest.raises(ValueError, match="unknown split 'test'"):
    digits.example('test', 0, 0)
  with pytest.raises(ValueError, match='-1'):
    digits.example('train', 0, -1)


def test_a_block_of_examples_is_drawn_at_once(monkeypatch):
  """A generator for each example would cost more than all the rest."""
  digits._block.cache_clear()
  made, make = [], np.random.default_rng
  monkeypatch.setattr(digits.np.random, 'default_rng', lambda seed: made.append(seed) or make(seed))
  digits.examples('train', 7, 8192)
  digits.examples('train', 7, 8192)
  assert len(made) == 2  # blocks of 4096


def test_export_is_a_dataset(tmp_path):
  rows = Rows(digits.export(tmp_path, 'heldout', 3, 5))
  rows.check()
  for i, item in enumerate(digits.examples('heldout', 3, 5)):
    messages, images, _ = rows[i]
    assert [m['content'] for m in messages] == [f'<image>\n{digits.worded(item, i).question}', item.answer]
    np.testing.assert_array_equal(np.asarray(digits.Image.open(images[0])), np.asarray(item.image))


def test_files_ask_every_question_in_every_wording():
  items = digits.examples('train', 0, 400)
  asked = {(item.question, digits.worded(item, i).question) for i, item in enumerate(items)}
  assert asked == {
    (question, wording) for question, wordings in zip(digits.QUESTIONS, digits.WORDINGS) for wording in wordings
  }
  assert all(digits.worded(item, i).answer == item.answer for i, item in enumerate(items))
  # What the documentation and `Is the sum even?` rely on: the wordings mean the same.
  assert (
    'What is the sum?' in digits.WORDINGS[digits.SUM] and 'Which digit is larger?' in digits.WORDINGS[digits.LARGER]
  )
  assert all((digits.answer(digits.PARITY, a, b) == 'yes') == ((a + b) % 2 == 0) for a in range(10) for b in range(10))
