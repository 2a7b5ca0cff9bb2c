# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tree of responses
#
# TreePO samples responses as a tree of segments. This notebook grows one tree from a random policy over bytes, draws it
# with log-probabilities and rewards, and compares its leaves within every subtree.

# %%
import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = '--xla_backend_optimization_level=0'

import jax
import matplotlib.pyplot as plt
import numpy as np

from core import mesh
from core.engine import EngineSize
from rl import policy as policies
from rl.advantages import common_segments, tree_centred
from rl.policy import Draw, trees
from rl.rollout import Sampler
from rl.rollout.tree import Branching, Tree
from rl.rollout.tree.plan import trajectories

plt.rcParams.update({'figure.dpi': 80, 'font.size': 10})

# %% [markdown]
# ## Growing it
#
# Eight leaves of at most five segments of four tokens; every path continues twice until there are eight.

# %%
place = mesh.make(devices=jax.devices()[:1])
policy, weights = policies.load('tiny-text', place)
size = EngineSize(slots=8, pages=128, page_size=4, segment=4, chunk=32)
sampler = Sampler(policy, weights, size, mesh.Share(place, place))
options = Branching(segment=4, first_low=2, first_high=2)
plan = Tree(Draw(20), options, width=8, seed=1)
prompt = policy.prompt([{'role': 'user', 'content': 'Say something.'}])
(growth,) = plan.grow(sampler, [prompt], [0])
stats = sampler.engine.stats
delivered = sum(len(leaf.path.tokens) for leaf in growth.leaves)
print(f'{growth.requests} segments, {stats.decoded} tokens decoded, {delivered} delivered')
print(f'prompt of {len(prompt.tokens)} tokens, {stats.prefilled} prefilled')

# %% [markdown]
# ## Rewards and advantages
#
# The reward is the share of letters in a response. A leaf is compared with all leaves, then with those that share its
# first segment, its first two, and so on; the advantage is the mean of these comparisons, before whitening.

# %%
group = trajectories(policy, prompt, growth.leaves)
rewards = np.array([[np.mean([c.isalpha() for c in t.response] or [0.0]) for t in group]], np.float32)
lineage = [np.array([[getattr(t, name) for t in group]]) for name in ('parent', 'segment')]
common = common_segments(*lineage)
advantages = tree_centred(rewards, common, np.ones(rewards.shape, bool), by_size=False, reject=False)
for t, reward, advantage in zip(group, rewards[0], advantages[0]):
  print(f'{reward:.2f} {advantage:+.2f}  {t.response!r}')

# %% [markdown]
# ## The tree
#
# Each line is a segment, coloured by its mean log-probability. The number at a leaf is its reward, and its colour the
# sign of its advantage.

# %%
leaves = sorted(range(len(growth.leaves)), key=lambda i: growth.leaves[i].path.labels)
rows = {leaf: row for row, leaf in enumerate(leaves)}
heights, scores = {}, {}
for leaf, row in rows.items():
  path = growth.leaves[leaf].path
  for n in range(len(path.labels) + 1):
    heights.setdefault(path.labels[:n], []).append(row)
  for n in range(len(path.labels)):
    scores[path.labels[: n + 1]] = path.logp[4 * n : 4 * n + 4].mean()
at = {labels: (len(labels), np.mean(found)) for labels, found in heights.items()}
low, high = min(scores.values()), max(scores.values())
colours = plt.get_cmap('viridis')
figure, axes = plt.subplots(figsize=(9, 4))
for labels, score in scores.items():
  (x0, y0), (x1, y1) = at[labels[:-1]], at[labels]
  axes.plot([x0, x0 + 0.25, x1], [y0, y1, y1], color=colours((score - low) / (high - low)), linewidth=3)
for leaf in leaves:
  x, y = at[growth.leaves[leaf].path.labels]
  colour = 'tab:green' if advantages[0, leaf] > 0 else 'tab:red'
  axes.text(x + 0.08, y, f'{rewards[0, leaf]:.2f}', color=colour, va='center')
scale = plt.cm.ScalarMappable(plt.Normalize(low, high), colours)
figure.colorbar(scale, ax=axes, label='mean log-probability of the segment')
axes.set(xlabel='segments', yticks=[], title='a tree of eight responses', xlim=(-0.1, 5.6))
axes.spines[['top', 'right', 'left']].set_visible(False)
plt.show()

# %% [markdown]
# ## The packed row
#
# For the update the tree is one row, depth first, in which shared tokens appear once. A token sees only its own path.

# %%
row = trees.lay(prompt.tokens, [t.tokens for t in group])
plain = sum(len(prompt.tokens) + len(t.tokens) for t in group)
index = np.arange(len(row.tokens))
sees = (index <= index[:, None]) & (index[:, None] < row.until)
plt.figure(figsize=(4.5, 4.5))
plt.imshow(sees, cmap='Greys', interpolation='nearest')
plt.title(f'{len(row.tokens)} tokens instead of {plain}')
plt.xlabel('keys')
plt.ylabel('queries')
plt.show()
