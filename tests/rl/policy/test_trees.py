"""Packed trees: the layout, and gradients equal to those of plain rows for every rule of the loss."""

import jax
import numpy as np
import pytest

from core import mesh
from core.attention import subtrees
from rl import policy
from rl.losses import RULES, policy_loss
from rl.policy import Trajectory, layouts, trees

ONE = mesh.make(devices=jax.devices()[:1])


def test_the_worked_tree():
  tree = trees.lay(np.array([7, 8]), [np.array([1, 2, 3]), np.array([1, 4]), np.array([1, 2, 5, 6]), np.array([9])])
  assert tree.tokens.tolist() == [7, 8, 1, 2, 3, 5, 6, 4, 9]
  assert tree.positions.tolist() == [0, 1, 2, 3, 4, 4, 5, 3, 2]
  assert tree.until.tolist() == [9, 9, 8, 7, 5, 7, 7, 8, 9]
  assert tree.source.tolist() == [-1, 0, 1, 2, 3, 3, 5, 2, 1]
  assert [path.tolist() for path in tree.paths] == [[2, 3, 4], [2, 7], [2, 3, 5, 6], [8]]
  with pytest.raises(ValueError, match='needs a prompt'):
    trees.lay(np.zeros(0, int), [np.array([1])])


def test_every_leaf_sees_its_path_and_nothing_else():
  r = np.random.default_rng(0)
  for _ in range(100):
    prompt = r.integers(0, 3, r.integers(1, 5))
    leaves = [r.integers(0, 2, r.integers(1, 9)) for _ in range(r.integers(1, 9))]
    tree = trees.joined([trees.lay(prompt, leaves), trees.lay(prompt + 9, leaves)])
    index = np.arange(len(tree.tokens))
    sees = (index <= index[:, None]) & (index[:, None] < tree.until)
    for path, leaf in zip(tree.paths, [*leaves, *leaves]):
      whole = np.flatnonzero(sees[path[-1]])
      assert tree.tokens[whole[len(prompt) :]].tolist() == leaf.tolist() == tree.tokens[path].tolist()
      assert tree.positions[whole].tolist() == list(range(len(whole)))
      assert tree.source[whole].tolist() == [-1, *whole[:-1]]


def grown(r, prompt, leaves, segment=5):
  """Trajectories that branch at whole segments, stop early, and sometimes begin again from an inner node."""
  said = []
  for _ in range(leaves):
    kept = np.zeros(0, np.int32)
    if said and r.random() < 0.8:
      other = said[r.integers(len(said))]
      kept = other[: segment * r.integers(0, len(other) // segment + 1)]
    said.append(np.concatenate([kept, r.integers(0, 250, r.integers(1, 4 * segment))]).astype(np.int32))
  draw = lambda n: -3 * r.random(n).astype(np.float32)
  return [Trajectory(prompt, x, r.random(len(x)) < 0.9, draw(len(x)), parent=-1) for x in said]


def _losses(p, weights, inputs, mask, old, gain):
  """The gradient of each rule's loss over the weights."""
  score = lambda w: p.log_probs(w, inputs)[0]
  logp, pull = jax.vjp(jax.jit(score), weights)
  pull = jax.jit(pull)

  @jax.jit
  def slopes(logp):
    def loss(x, rule):
      out = policy_loss(x, old, gain, mask, rule=rule)
      return out.total / out.weight

    return {name: jax.grad(loss)(logp, rule) for name, rule in RULES.items()}

  grads = {}
  for name, slope in slopes(logp).items():
    (grads[name],) = pull(slope)
  return grads


def _same(got, want):
  for name in want:
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(g[name])]) for g in (got, want))
    gap = np.linalg.norm(a - b) / np.linalg.norm(b)
    assert gap < 1e-5, (name, gap)


@pytest.mark.slow
@pytest.mark.parametrize('blocked', [False, True])
def test_gradients_equal_those_of_plain_rows(blocked, monkeypatch):
  if blocked:
    monkeypatch.setattr(subtrees, 'BLOCK', 16)
  monkeypatch.setattr(trees, 'DENSE', 32 if blocked else 1024)
  p, weights = policy.load('tiny-text', ONE, seed=1)
  r = np.random.default_rng(1)
  prompts = [p.prompt([{'role': 'user', 'content': text}]) for text in ('a', 'somewhat longer')]
  groups = [grown(r, prompts[0], 6), grown(r, prompts[1], 4)]
  gain = r.standard_normal((2, 6, 1)).astype(np.float32)
  arrays = {}
  for layout in ('rows', 'trees'):
    slots = p.slots(groups, layout).bucketed()
    length = max(len(t.tokens) for group in groups for t in group) if layout == 'rows' else slots.response
    sizes = {'samples': 6, 'length': length}
    mask = layouts.spread(groups, lambda t: t.mask, dtype=bool, **sizes)
    old = layouts.spread(groups, lambda t: t.logp, dtype=np.float32, **sizes)
    placed = [layouts.place(x, groups, layout, slots) for x in (mask, old, gain)]
    inputs = p.inputs(groups, layout, slots)
    assert layout == 'rows' or (inputs.blocks is not None) == blocked
    arrays[layout] = _losses(p, weights, inputs, *placed)
  _same(arrays['trees'], arrays['rows'])
  if blocked:
    return
  # Both trees in one row: the leaves follow one another.
  row = trees.joined(trees.of_groups(groups))
  inputs = trees.batch(
    [row], [0], length=256, scored=128, samples=12, response=slots.response, blocks=1, pad_id=p.pad_id
  )
  inputs = inputs.replace(blocks=None)
  order = [*range(6), *range(6, 10), 0, 0]
  mask, old, gain = (np.concatenate([x[0], x[1]])[order][None] for x in placed)
  mask[:, 10:] = False
  _same(_losses(p, weights, inputs, mask, old, gain), arrays['rows'])
