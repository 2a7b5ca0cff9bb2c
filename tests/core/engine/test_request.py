"""Requests check themselves when they are made."""

import numpy as np
import pytest

from core.engine.request import Request


@pytest.mark.parametrize(
  'bad,message',
  [
    ({'prompt': []}, '0 tokens'),
    ({'max_new': 0}, 'max_new=0'),
    ({'top_p': 0.0}, 'top_p'),
    ({'stops': [1.5]}, 'stops has 1.5; expected integer'),
    ({'prompt': [1, 2.0]}, 'prompt has 2.0; expected integer'),
    ({'prompt': [True]}, 'prompt has True; expected integer'),
    ({'temperature': float('nan')}, 'need 0 <= temperature < inf'),
    ({'repetition_penalty': 0.0}, 'repetition_penalty'),
    ({'stop_strings': ['']}, 'an empty stop string'),
  ],
)
def test_values_out_of_range_are_named(bad, message):
  with pytest.raises(ValueError, match=message):
    Request(**({'prompt': [1], 'max_new': 1} | bad))


def test_tokens_of_any_integer_type_are_taken_and_masks_are_copied():
  mask = np.ones(4, bool)
  request = Request(np.array([1, 2], np.int32), 1, stops=[np.int64(3)], stop_strings='end', allowed=mask)
  mask[:] = False
  assert (request.prompt, request.stops, request.stop_strings) == ((1, 2), (3,), ('end',))
  assert request.allowed.all() and not request.allowed.flags.writeable


@pytest.mark.parametrize(
  'request_,message',
  [
    (Request([4], 1), 'outside the vocabulary of 4'),
    (Request([-1], 1), 'outside the vocabulary of 4'),
    (Request([1], 1, allowed=np.ones(3, bool)), r'expected a non-empty choice among \(4,\)'),
    (Request([1], 1, allowed=np.zeros(4, bool)), r'expected a non-empty choice among \(4,\)'),
  ],
)
def test_tokens_outside_a_vocabulary_are_named(request_, message):
  with pytest.raises(ValueError, match=message):
    request_.check_vocabulary(4)
