"""The plan of a vision service: shapes, FLOPs, and the published bytes on the wire."""

import dataclasses

import jax
import pytest

from core import mesh, plan
from internvl import configs
from internvl.plan import vision

ONE = mesh.abstract()


def test_bytes_of_a_tile_are_the_published_ones():
  """Specification of DvD: 2.0 MiB a tile of the 8B and 241B, 2.5 of the 38B; a quarter of it compressed."""
  mib = lambda name, **tiles: vision.wire_bytes(configs.CONFIGS[name], 1, **tiles) / 2**20
  assert [mib(name) for name in ('8B', '38B', '241B-A28B')] == [2.0, 2.5, 2.0]
  assert mib('8B-Flash', compressed=1) == 0.5


@pytest.mark.parametrize('name', ['tiny', 'tiny-flash'])
def test_the_program_makes_features_and_scores(name):
  config = dataclasses.replace(vision.CONFIGS['8b'], model=name, tiles=3)
  program = vision.plan_step(config, ONE)
  full, compact, scores = jax.eval_shape(lambda *x: vision.encode(*x, **program.static), *program.args)
  m = configs.CONFIGS[name]
  assert full.shape == (3, m.tokens_per_tile, m.language.width)
  assert (compact is None, scores is None) == (m.flash is None, m.flash is None)
  if m.flash:
    assert compact.shape[1] == m.compact_tokens and scores.shape == (3,)
  assert not any(leaf.shape == (m.language.vocab, m.language.width) for leaf in jax.tree.leaves(program.args[0]))


def test_the_towers_of_the_8b_and_241b():
  small, large = (vision.plan_step(vision.CONFIGS[name], ONE).counted for name in ('8b', '241b'))
  assert small.parameters == 304_012_288 + 33_570_816 and large.parameters == 5_536_496_000 + 69_239_808
  assert 10 < large.flops / small.flops < 25


def test_an_unknown_size_is_refused():
  with pytest.raises(plan.PlanError, match='9B'):
    vision.plan_step(vision.Config('9B'), ONE)
