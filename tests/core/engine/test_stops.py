"""Stop strings: incremental search equals a search of the whole text."""

import numpy as np
import pytest

from core.engine.stops import StopStrings

PIECES = [b'a', b'b', b'ab', b'', b'ba\n', 'é'.encode()[:1], 'é'.encode()[1:], '文'.encode()[:2], '文'.encode()[2:]]


def decode(tokens):
  """Tokens as text; bytes that are no character show as U+FFFD."""
  return b''.join(PIECES[t] for t in tokens).decode('utf-8', 'replace')


@pytest.mark.parametrize('strings', [['ab'], ['bb', 'aa\n'], ['é', 'a文'], ['\nab', 'b']])
def test_equals_a_search_of_the_whole_text(strings):
  r = np.random.default_rng(0)
  whole = [[0], [1], [2], [3], [4], [5, 6], [7, 8]]
  for _ in range(200):
    tokens = [t for i in r.integers(0, len(whole), 12) for t in whole[i]]
    first = next((n for n in range(1, len(tokens) + 1) if any(s in decode(tokens[:n]) for s in strings)), None)
    watch, seen, found = StopStrings(decode, strings), 0, None
    while seen < len(tokens) and found is None:
      size = int(r.integers(1, 5))
      cut = watch.feed(tokens[seen : seen + size])
      found = None if cut is None else seen + cut
      seen += size
    assert found == first


def test_each_token_is_decoded_with_its_neighbours_only():
  longest = 0

  def noted(tokens):
    nonlocal longest
    longest = max(longest, len(tokens))
    return decode(tokens)

  assert StopStrings(noted, ['zz']).feed([0, 1, 2] * 100) is None
  assert longest <= 4
