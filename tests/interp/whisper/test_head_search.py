"""A head that follows the audio is told from ones that do not."""

import numpy as np
import pytest

from interp.whisper import head_search
from interp.whisper.decoding.window import Recogniser
from interp.whisper.options import Options
from tests.interp.whisper import tiny

RNG = np.random.default_rng(0)
TOKENS, POSITIONS = 20, 100


def following(noise: float):
  """Attention [T, S] that moves along the audio, over noise."""
  at = np.arange(POSITIONS) - 5 * np.arange(TOKENS)[:, None]
  weights = np.exp(-(at**2) / 8) + noise * RNG.random((TOKENS, POSITIONS))
  return weights / weights.sum(-1, keepdims=True)


def test_following_heads_score_above_those_that_attend_anywhere_or_to_one_place():
  anywhere = RNG.random((TOKENS, POSITIONS))
  sink = np.where(np.arange(POSITIONS) < 3, 1.0, 0.01) + 0.01 * RNG.random((TOKENS, POSITIONS))
  backwards = following(0.1)[::-1]
  scores = head_search.monotony(np.stack([following(0.1), following(0.5), anywhere, sink, backwards]))
  assert scores[0] > scores[1] > 1.0 > scores[2:].max()


@pytest.mark.slow
def test_a_search_returns_distinct_heads_of_the_model(tmp_path):
  c = tiny.CONFIG
  r = Recogniser(tiny.params(), c, tiny.processor(), Options(timestamps=False, previous=False, temperatures=(0.0,)))
  windows = [RNG.standard_normal(c.samples).astype(np.float32)]
  heads = head_search.search(r, windows, count=12)
  assert sorted(heads) == [(layer, head) for layer in range(3) for head in range(4)]
  assert head_search.search(r, windows, count=2) == heads[:2]
  with pytest.raises(ValueError, match='1 to 12'):
    head_search.search(r, windows, count=13)
