"""Several sources as one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from core.training.concatenated import Concatenated


@given(st.lists(st.lists(st.integers(), max_size=4), min_size=1, max_size=5))
def test_records_follow_each_other_and_know_their_source(sources):
  joined = Concatenated(sources)
  whole = [record for source in sources for record in source]
  assert len(joined) == len(whole) and [joined[i] for i in range(len(joined))] == whole
  origin = [k for k, source in enumerate(sources) for _ in source]
  assert joined.source_of(np.arange(len(whole))).tolist() == origin
  for i, k in enumerate(origin):
    source, at = joined.find(i)
    assert source is sources[k] and source[at] == whole[i]
