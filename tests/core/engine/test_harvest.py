"""What a segment gives each sample: how many tokens it keeps, and the reason for which it ends."""

import numpy as np
import pytest

from core.engine.device import STOPS, Segment
from core.engine.harvest import harvest
from core.engine.request import Request
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.sequence import Prompt, Sequence
from core.engine.stops import StopStrings

SAMPLED = [11, 12, 13, 14]


def run(count=4, failed=False, left=False, **options):
  """(tokens of a sample that sampled SAMPLED in a segment, why it ended)."""
  s = Scheduler(slots=2, pages=8, page_size=4, segment=4)
  request = Request([1, 2], **({'max_new': 9} | options))
  watch = StopStrings(lambda ids: ''.join(map(chr, ids)), request.stop_strings) if request.stop_strings else None
  sample = Sequence(0, request, 0, Prompt(np.array([1, 2])), watch)
  s.add(sample)
  s.admit(len(s.slots))
  s.set_filled(sample, 1)
  decoded = [(sample, sample.slot)]
  if left:
    s.remove(sample)
  stops = np.full((2, STOPS), -1)
  stops[0, : len(request.stops)] = request.stops[:STOPS]
  blank = np.zeros((2, 4), np.float32)
  out = Segment(
    tokens=np.array([SAMPLED, [0] * 4]), logp=blank, count=np.array([count, 0]), failed=np.array([failed, 0])
  )
  news = harvest(s, decoded, out, stops, version=3)
  assert set(s.rows.response(sample).version.tolist()) <= {3}
  return s.rows.response(sample).tokens.tolist(), news.ended.get(0)


@pytest.mark.parametrize(
  'options,kept,reason',
  [
    ({}, 4, None),
    ({'max_new': 4}, 4, 'length'),
    ({'count': 2, 'stops': [12]}, 2, 'stop'),
    ({'max_new': 2, 'count': 2, 'stops': [12]}, 2, 'stop'),
    ({'stops': [*range(20, 29), 13]}, 3, 'stop'),  # one more than the device checks
    ({'stop_strings': [chr(12) + chr(13)]}, 3, 'stop_string'),
    ({'stop_strings': [chr(13)], 'stops': [12], 'count': 2}, 2, 'stop'),
    ({'count': 0, 'failed': True}, 0, 'error'),
    ({'count': 2, 'failed': True}, 2, 'error'),
    ({'stop_strings': [chr(12)], 'failed': True, 'count': 3}, 2, 'stop_string'),  # it failed after its end
  ],
)
def test_a_sample_keeps_tokens_up_to_its_end(options, kept, reason):
  assert run(**options) == (SAMPLED[:kept], reason)


def test_a_sample_that_left_meanwhile_gets_nothing():
  assert run(left=True) == ([], None)
