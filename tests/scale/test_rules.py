"""A sweep over the `data` axis: `rules` frees that axis in every constraint of a forward pass."""

import pytest

from tests.scale.processes import join, spawn

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
import internvl
from core import decoder, mesh
from internvl import model

config = internvl.CONFIGS['tiny']
params = internvl.init(jax.random.key(0), config)
r = np.random.default_rng(0)
tokens = r.integers(0, 250, (4, 12)).astype(np.int32)
tokens[:, 2:2 + config.tokens_per_tile] = config.image_token
pixels = r.standard_normal((4, 1, 16, 16, 3)).astype(np.float32)
scales = jnp.linspace(0.5, 1.5, 4)
own = mesh.RULES | {'batch': None, 'tiles': None}


def score(rules):
  def one(scale):
    edit = lambda site, i, x: jnp.where(i == 0, scale * x, x) if site == 'mlp_out' else x
    out = model.forward(params, config, tokens, pixels=pixels, edit=edit, rules=rules)
    logp, entropy = decoder.log_probs(
      params.language, config.language, out.hidden, np.roll(tokens, -1, 1), chunk=5, rules=rules
    )
    return logp.mean() + entropy.mean()
  return one


want = jax.jit(jax.vmap(score(mesh.RULES)))(scales)
assert np.ptp(want) > 1e-4
with jax.set_mesh(mesh.make(data=4, model=2)):
  sweep = lambda rules: jax.jit(jax.vmap(score(rules), spmd_axis_name='data'))(scales)
  np.testing.assert_allclose(sweep(own), want, rtol=1e-5)
  try:
    sweep(mesh.RULES)
  except ValueError:
    pass
  else:
    raise AssertionError('the default rules use data twice, and must be refused')
"""


@pytest.mark.slow
def test_a_sweep_over_the_data_axis_runs_under_its_own_rules():
  join(spawn(SCRIPT, devices=8), limit=300)
