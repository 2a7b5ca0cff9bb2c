"""Ours against `transformers` by way of stored results: activations, loss, gradients, greedy ids. No torch."""

import pathlib

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.parity import ours

FOLDER = pathlib.Path(__file__).parent / 'fixtures'
CASES = sorted(p.name for p in FOLDER.iterdir())
QUICK = ('300m-qwen3', '6b-qwen3_moe', '6b-gpt_oss', 'lm-qwen2')  # every part once; the rest are their combinations


def read(case: str):
  """(config, params, inputs, reference results) of a stored case."""
  with np.load(FOLDER / case / 'reference.npz') as f:
    stored = dict(f)
  x = {k.removeprefix('input.'): stored.pop(k) for k in list(stored) if k.startswith('input.')}
  return *ours.load(FOLDER / case), x, stored


def test_every_case_is_stored():
  text = ('qwen2', 'qwen3', 'qwen3_moe', 'gpt_oss')
  assert {f'{kind}-{t}' for kind in ('300m', '6b', 'lm') for t in text} | {'lm-llama'} == set(CASES)


@pytest.mark.parametrize('case', [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES])
def test_equals_transformers(case):
  config, params, x, want = read(case)
  greedy, loss = want.pop('greedy'), want.pop('loss')
  stages, value, gradients = ours.results(params, config, x)
  excess = ours.stage_excess(stages, want)
  assert max(excess.values()) <= 1, excess
  assert abs(value - loss) <= ours.LOSS
  excess = ours.gradient_excess(gradients, load_file(FOLDER / case / 'gradients' / 'model.safetensors'))
  assert max(excess.values()) <= 1, excess
  np.testing.assert_array_equal(ours.greedy(params, config, x, greedy.shape[1]), greedy)
