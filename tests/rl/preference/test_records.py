"""The record format of preference pairs, and what is said about bad records."""

import json

import numpy as np
import pytest
from PIL import Image

from rl import preference
from rl.preference import Records
from tests.rl.preference.pairs import digits_pairs


def test_records_round_trip_with_their_images(tmp_path):
  pairs = digits_pairs(3)
  assert preference.write(tmp_path / 'pairs.jsonl', pairs) == 3
  back = Records(tmp_path / 'pairs.jsonl')
  back.check()
  for a, b in zip(pairs, [back[i] for i in range(len(back))]):
    assert (a.messages, a.chosen, a.rejected, a.answer) == (b.messages, b.chosen, b.rejected, b.answer)
    assert np.array_equal(a.images[0], Image.open(b.images[0]))


@pytest.mark.parametrize(
  'change, says',
  [
    ({'chosen': None}, '"chosen" must be a text'),
    ({'rejected': 5}, '"rejected" must be a text, not 5'),
    ({'rejected': 'good'}, 'the same text'),
    ({'question': '<image> <image>'}, '2 <image> marks'),
    ({'image': 7}, '"image" must be a path'),
    ({'image': 'gone.png'}, 'gone.png, which does not exist'),
  ],
)
def test_a_bad_record_is_named_by_its_line(tmp_path, change, says):
  good = {'image': 'a.png', 'question': '<image>\nWhat?', 'chosen': 'good', 'rejected': 'bad', 'meta': None}
  Image.new('RGB', (16, 16)).save(tmp_path / 'a.png')
  (tmp_path / 'x.jsonl').write_text(json.dumps(good) + '\n' + json.dumps(good | change) + '\n')
  records = Records(tmp_path / 'x.jsonl')
  assert records[0].chosen == 'good'
  with pytest.raises((ValueError, FileNotFoundError), match=r'x\.jsonl:2') as error:
    records[1]
  assert says in str(error.value)
