"""What the planner counts of a flow update, and what it refuses; a tiny update compiled for a TPU."""

import dataclasses

import jax
import pytest

from core import mesh as mesh_lib
from core.params import count
from core.plan import PlanError, aot, chips, formula, report
from rl.flow import mmdit, plan


@pytest.mark.parametrize('name', plan.CONFIGS)
def test_every_weight_is_counted_once(name):
  config = plan.CONFIGS[name]
  policy = plan.policy_of(config)
  counted = sum(count(part.spec) for part in plan.parts(config, policy))
  assert counted == count(policy.spec().replace(positions=None))


def test_flops_of_an_update_are_those_of_its_passes():
  config = plan.CONFIGS['flux_pref_grpo']
  policy = plan.policy_of(config)
  assert policy.latent == (90, 90, 16)
  passes = 64 * 14
  tokens = 512 + 45 * 45
  # Weights that each token multiplies with: all but embedders and modulations, to within 2 %.
  spec = policy.spec()
  double = sum(count(stream.replace(modulation=None)) for stream in (spec.joint.text, spec.joint.image))
  single = count(spec.single.replace(modulation=None))
  attention = 4 * 3072 * (19 + 38) * tokens**2
  forward = passes * (2 * (512 + 2025) * (double / 2 + single) + attention)
  counted = [part for part in plan.parts(config, policy) if 'blocks' in part.name]
  got = sum(
    2 * part.tokens * sum(w.active for w in formula.weights(part, _mesh())) + part.attention for part in counted
  )
  assert got == pytest.approx(forward, rel=0.02)


def _mesh():
  return jax.sharding.AbstractMesh((1, 1, 1, 1), mesh_lib.AXES)


def test_refusals():
  with pytest.raises(PlanError, match='needs the name of a size'):
    plan.policy_of(plan.Config(model='folder'))
  with pytest.raises(PlanError, match='multiples of 16'):
    plan.policy_of(plan.Config(height=700))
  with pytest.raises(ValueError, match='accumulate divides'):
    plan.Config(batch=6, accumulate=4)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['flux_pref_grpo', 'sd3.5_pref_grpo'])
def test_a_tiny_update_compiles_for_a_tpu(name, monkeypatch):
  pytest.importorskip('libtpu', reason="compiling for a TPU needs the extra 'plan'")
  flux = name.startswith('flux')
  small = dataclasses.replace(
    mmdit.CONFIGS['tiny-flux' if flux else 'tiny'], head_dim=64, axes=(16, 24, 24) if flux else None
  )
  monkeypatch.setitem(mmdit.CONFIGS, 'small', small)
  config = dataclasses.replace(
    plan.CONFIGS[name], model='small', batch=8, accumulate=2, height=256, width=128, tokens=32
  )
  chip, _ = chips.parse('v5p:2x2x1')
  on = mesh_lib.make(data=4, devices=chips.devices('v5p:2x2x1'))
  program = plan.plan_step(config, on)
  made = report.make(name, program, on, chip, aot.compile_step(program, on))
  assert made.fits and made.collectives
  assert made.by_kind['weights'] < 4 * count(mmdit.spec(small)) / 2
