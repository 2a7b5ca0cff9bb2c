"""A Flash model on eight fake devices computes what one computes: scores, mixed tiles, loss and gradients."""

import json

import pytest

from tests.scale.processes import join, spawn

SCRIPT = """
import json
import jax, jax.numpy as jnp, numpy as np
import internvl
from core import decoder, mesh
from internvl import model
from internvl.flash import router

config = internvl.CONFIGS['tiny-flash']
params = internvl.init(jax.random.key(0), config)
on = mesh.make(data=2, model=4)
spread = jax.device_put(params, mesh.shardings(internvl.spec(config), on))
assert sum(not w.sharding.is_fully_replicated for w in jax.tree.leaves((spread.compact, spread.router))) > 20
r = np.random.default_rng(0)
full, few, side = config.tokens_per_tile, config.compact_tokens, config.vision.image_size
tokens = r.integers(0, 97, (8, 24)).astype(np.int32)
tile_tokens = np.where(np.arange(8)[:, None] % 2, [[full, few]], [[few, few]]).astype(np.int32)
for row, own in zip(tokens, tile_tokens):
  row[3:3 + own.sum()] = config.image_token
pixels = r.standard_normal((8, 2, side, side, 3)).astype(np.float32)
targets = np.roll(tokens, -1, 1)

@jax.jit
def run(params, tokens, pixels, tile_tokens):
  def loss(params):
    out = model.forward(params, config, tokens, pixels=pixels, tile_tokens=tile_tokens)
    features, _ = model.patches(params, config, pixels)
    logits = router.logits(params.router, features)
    logp, _ = decoder.log_probs(params.language, config.language, out.hidden, targets)
    return -logp.mean() + jax.nn.logsumexp(logits), logits
  return jax.value_and_grad(loss, has_aux=True)(params)

(l1, s1), g1 = run(params, tokens, pixels, tile_tokens)
with jax.set_mesh(on):
  (l8, s8), g8 = run(spread, *mesh.to_global((tokens, pixels, tile_tokens), on))
gap = lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max())
largest = max(float(np.abs(np.asarray(w)).max()) for w in jax.tree.leaves(g1))
worst = max(gap(a, b) for a, b in zip(jax.tree.leaves(g1), jax.tree.leaves(g8))) / largest
print(json.dumps({'loss': gap(l1, l8), 'logits': gap(s1, s8), 'gradients': worst}))
"""


@pytest.mark.slow
def test_eight_devices_equal_one():
  ((out, _),) = join(spawn(SCRIPT, devices=8), limit=300)
  gaps = json.loads(out.splitlines()[-1])
  assert max(gaps.values()) <= 1e-5, gaps
