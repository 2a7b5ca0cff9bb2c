"""The plan of a prefill with images: its arithmetic by hand, its program's shapes, its refusals."""

import dataclasses

import jax
import pytest

from core import mesh, plan
from internvl import configs
from internvl.plan import prefill

ONE = mesh.abstract()


def test_flops_of_a_tile_of_the_8b_by_hand():
  """448 pixels: 1024 patches and CLS through the tower, 64 and 256 tokens through the projectors."""
  parts = prefill.parts(configs.CONFIGS['8B-Flash'], batch=1, tiles=1, tokens=256)
  done = {part.name: prefill.flops(part, ONE) for part in parts}
  d, width = 1024, 4096
  assert done['projector'] == 2 * 256 * (4 * d * width + width * width)
  hidden = 2 * width
  assert done['compact projector'] == 2 * 64 * (16 * d * hidden + hidden * hidden + hidden * width)
  # Keys and values of two stages at every patch, and four times the scores and their weighted sum.
  assert done['router keys'] == 2 * 1024 * 2 * (2 * d * d) + 4 * 4 * d * 1024
  # Queries and outputs of two stages, four gating blocks, two logits.
  assert done['router'] == 2 * (2 * 2 * d * d + 4 * 2 * d * 4 * d + 2 * d)
  block = 4 * d * d + 2 * d * 4 * d
  patch = 14 * 14 * 3 * d
  assert done['vision tower'] == pytest.approx(2 * 1025 * (24 * block + patch) + 4 * 24 * d * 1025**2)
  assert done['router, not used'] == 0
  base = prefill.parts(configs.CONFIGS['8B'], batch=1, tiles=1, tokens=256)
  assert {part.name for part in base} == {'vision tower', 'projector', 'language model', 'head'}


def test_the_program_and_its_figures():
  tiny = dataclasses.replace(prefill.CONFIGS['8b_flash'], model='tiny-flash', batch=2, tiles=3, compressed=1, text=5)
  program = prefill.plan_step(tiny, ONE)
  assert '1 of 3 tiles compressed: 14 tokens a prompt instead of 17' in program.note
  logits, cache, scores = jax.eval_shape(lambda *x: prefill.prefill(*x, **program.static), *program.args)
  vocab = configs.CONFIGS['tiny'].language.vocab
  assert logits.shape == (2, vocab) and scores.shape == (2, 3) and jax.tree.leaves(cache)
  few, none = (
    prefill.plan_step(dataclasses.replace(prefill.CONFIGS['8b_flash'], compressed=n), ONE).counted.flops
    for n in (13, 0)
  )
  assert 2 < none / few < 4


def test_impossible_plans_are_refused():
  with pytest.raises(ValueError, match='compressed=14: expected 0 to tiles=13'):
    prefill.Config(compressed=14)
  with pytest.raises(ValueError, match='text=0'):
    prefill.Config(text=0)
  with pytest.raises(plan.PlanError, match="model='8B' is not a Flash model"):
    prefill.plan_step(prefill.Config('8B'), ONE)
