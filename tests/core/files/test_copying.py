"""Copies of tensors into their place: the values of numpy's own cast, for every dtype and order of axes."""

import itertools

import ml_dtypes
import numpy as np
import pytest

from core.files import copying
from core.files.copying import copy

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32)


@pytest.mark.parametrize('stored', DTYPES)
@pytest.mark.parametrize('ours', DTYPES)
def test_a_copy_is_numpys_cast(stored, ours, monkeypatch):
  """In pieces by several threads, into places that are not contiguous; the rest of `out` is left alone."""
  monkeypatch.setattr(copying, 'PIECE', 50)
  monkeypatch.setattr(copying, 'TASK', 200)
  whole = np.random.default_rng(0).standard_normal((3, 21, 33)).astype(stored)
  whole[0, 0, :4] = np.inf, -np.inf, np.nan, -0.0
  for axes in itertools.permutations(range(3)):
    view = whole.transpose(axes)[:, 1:]
    out = np.full((2, *view.shape), 7, ours)
    copy(view, out[1])
    want = view.astype(ours)
    np.testing.assert_array_equal(out[1].astype(np.float32), want.astype(np.float32))
    assert (out[0] == 7).all()


def test_numbers_and_vectors_are_copied_too():
  out = np.zeros(3, np.float32)
  copy(np.arange(6, dtype=ml_dtypes.bfloat16)[::2], out)
  copy(np.array(5, ml_dtypes.bfloat16), out[1:2].reshape(()))
  assert out.tolist() == [0, 5, 4]
