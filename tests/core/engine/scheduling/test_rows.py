"""Rows of slots against plain lists: what enters, grows and leaves is what each sequence says it has."""

import numpy as np

from core.engine.request import Request
from core.engine.scheduling.rows import Rows
from core.engine.scheduling.sequence import Prompt, Sequence


def sequence(id, prompt, new):
  request = Request(prompt, new)
  return Sequence(id, request, 0, Prompt(np.array(prompt, np.int64)))


def test_tokens_of_segments_are_kept_through_a_change_of_slots():
  rows = Rows(slots=3, longest=8, page_size=4)
  a, b = sequence(0, [5, 6, 7], 20), sequence(1, [8], 20)
  rows.enter(2, a)
  rows.enter(0, b)
  tokens = np.arange(8, dtype=np.int32).reshape(2, 4)
  logp = -tokens / np.float32(8)
  rows.append(np.array([2, 0]), tokens, logp, np.array([3, 1]), np.array([3, 1]), version=4)
  rows.leave(a)
  rows.enter(1, a)
  rows.append(np.array([1]), tokens[1:], logp[1:], np.array([2]), np.array([2]), version=5)
  response = rows.response(a)
  assert response.tokens.tolist() == [0, 1, 2, 4, 5]
  assert response.version.tolist() == [4, 4, 4, 5, 5]
  np.testing.assert_array_equal(response.logp, -np.float32([0, 1, 2, 4, 5]) / 8)
  assert rows.response(b).tokens.tolist() == [4]
  assert rows.names(a, 0, 8).tolist() == [5, 6, 7, 0, 1, 2, 4, 5]
  assert rows.names(a, 2, 5).tolist() == [7, 0, 1]
  assert rows.content(a, 2, 5) == np.array([7, 0, 1], np.int64).tobytes()
  assert rows.length(a) == 8 and rows.count(b) == 1


def test_a_slot_is_ready_when_all_tokens_but_the_last_are_in_pages():
  rows = Rows(slots=2, longest=8, page_size=4)
  a = sequence(0, [5, 6, 7], 9)
  rows.enter(1, a)
  assert rows.ready.tolist() == [False, False]
  rows.filled[1] = 2
  assert rows.ready.tolist() == [False, True] and rows.is_ready(1)
  rows.leave(a)
  assert not rows.ready.any()


def test_pages_are_dealt_out_in_turn():
  rows = Rows(slots=3, longest=4, page_size=4)
  rows.add_pages(np.array([2, 0, 1]), np.array([10, 11, 12], np.int32))
  rows.add_pages(np.array([1, 1, 0]), np.array([13, 14], np.int32))
  tables = [rows.table[slot, :count].tolist() for slot, count in enumerate(rows.pages)]
  assert tables == [[10, 11, 13], [14], [12]]
