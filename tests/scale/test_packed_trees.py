"""Packed trees on eight devices, heads over `model`: gradients are those of plain rows on one."""

import json
import textwrap

import pytest

from tests.scale.processes import join, spawn

PROGRAM = textwrap.dedent("""
  import json
  import jax, jax.numpy as jnp, numpy as np
  from core import mesh
  from core.attention import subtrees
  from rl import policy
  from rl.losses import RULES, policy_loss
  from rl.policy import layouts, trees
  from tests.rl.policy.test_trees import grown

  subtrees.BLOCK = 16
  trees.DENSE = 32

  def gradient(layout, on):
    p, weights = policy.load('tiny-text', on, seed=1)
    r = np.random.default_rng(1)
    prompt = p.prompt([{'role': 'user', 'content': 'a'}])
    groups = [grown(r, prompt, 4) for _ in range(2)]
    slots = p.slots(groups, layout).bucketed()
    longest = max(len(t.tokens) for group in groups for t in group)
    sizes = {'samples': 4, 'length': longest if layout == 'rows' else slots.response}
    mask = layouts.spread(groups, lambda t: t.mask, dtype=bool, **sizes)
    old = layouts.spread(groups, lambda t: t.logp, dtype=np.float32, **sizes)
    gain = r.standard_normal((2, 4, 1)).astype(np.float32)
    mask, old, gain = (layouts.place(x, groups, layout, slots) for x in (mask, old, gain))

    def loss(w, inputs):
      out = policy_loss(p.log_probs(w, inputs)[0], old, gain, mask, rule=RULES['treepo'])
      return out.total / out.weight

    with jax.set_mesh(on):
      inputs = mesh.to_global(p.inputs(groups, layout, slots), on)
      grad = jax.jit(jax.grad(loss))(weights, inputs)
    heads = grad.blocks.attn.q.sharding if hasattr(grad.blocks, 'attn') else grad.blocks[0].attn.q.sharding
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(grad))]), str(heads.spec)

  want, _ = gradient('rows', mesh.make(devices=jax.devices()[:1]))
  got, heads = gradient('trees', mesh.make(data=2, model=4))
  print(json.dumps({'gap': float(np.linalg.norm(got - want) / np.linalg.norm(want)), 'heads': heads}))
""")


@pytest.mark.slow
def test_eight_devices_with_heads_over_model():
  ((out, _),) = join(spawn(PROGRAM, devices=8), limit=400)
  found = json.loads(out.splitlines()[-1])
  assert found['gap'] < 1e-5 and 'model' in found['heads'], found
