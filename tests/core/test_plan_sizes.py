"""The tables of docs/memory.md."""

import math
import pathlib

from core import decoder
from core.plan import sizes

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'memory.md'


def test_the_page_has_the_tables_of_the_program():
  every = sizes.sizes()
  page = PAGE.read_text().splitlines()
  missing = [line for line in [*sizes.by_size(every), *sizes.by_device(every)] if line not in page]
  assert not missing


def test_bytes_of_a_decoder_are_those_of_its_arrays():
  """By hand, for Qwen3-0.6B: 28 layers of width 1,024, 16 query and 8 key heads of 128, a tied vocabulary."""
  one = sizes.size('qwen3-0.6b', decoder.CONFIGS['qwen3-0.6b'])
  attention = 1024 * 128 * (2 * 16 + 2 * 8)
  feed_forward = 3 * 1024 * 3072
  norms = 2 * 1024 + 2 * 128
  weights = 151936 * 1024 + 28 * (attention + feed_forward + norms) + 1024
  assert (one.parameters, one.float32, one.bfloat16) == (weights, 4 * weights, 2 * weights)
  assert one.token == 28 * 2 * 8 * 128 * 2
  assert math.isclose(one.training, 16 * weights, rel_tol=1e-6)  # and the step counter
  narrow = 28 * (attention + feed_forward)
  assert 0 < one.int8 - (2 * weights - narrow) < 0.02 * narrow  # the scales
