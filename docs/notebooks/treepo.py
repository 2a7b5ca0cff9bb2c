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
message = {'role': 'user', 'content': 'Say something.'}
prompt = policy.prompt([message])
(growth,) = plan.grow(sampler, [prompt], [0])
paths = [leaf.path for leaf in growth.leaves]
stats = sampler.engine.stats
delivered = sum(len(path.tokens) for path in paths)
print(f'{growth.requests} segments, {stats.decoded} tokens decoded, {delivered} delivered')
print(f'prompt of {len(prompt.tokens)} tokens, {stats.prefilled} prefilled')

# %% [markdown]
# ## Rewards and advantages
#
# The reward is the share of letters in a response. A leaf is compared with all leaves, then with those that share its
# first segment, its first two, and so on; the advantage is the mean of these comparisons, before whitening.


# %%
def share_of_letters(response):
  """0 if the response is empty."""
  letters = [c.isalpha() for c in response]
  return np.mean(letters or [0.0])


group = trajectories(policy, prompt, growth.leaves)
rewards = np.array([share_of_letters(t.response) for t in group], np.float32)
parent = np.array([t.parent for t in group])
segment = np.array([t.segment for t in group])
common = common_segments(parent[None], segment[None])  # of a batch of one tree
every_leaf = np.ones((1, len(group)), bool)
(advantages,) = tree_centred(rewards[None], common, every_leaf, by_size=False, reject=False)
for t, reward, advantage in zip(group, rewards, advantages):
  print(f'{reward:.2f} {advantage:+.2f}  {t.response!r}')

# %% [markdown]
# ## The tree
#
# Each line is a segment, coloured by its mean log-probability. The number at a leaf is its reward; its colour shows the
# sign of its advantage.

# %%
# A node is named by the labels of its segments, from the root: a prefix of the labels of the leaves below it.
heights = {}  # of each node, the rows of its leaves
scores = {}  # of each node but the root, the mean log-probability of its last segment
by_labels = sorted(range(len(paths)), key=lambda leaf: paths[leaf].labels)
for row, leaf in enumerate(by_labels):
  path = paths[leaf]
  heights.setdefault((), []).append(row)
  for depth in range(len(path.labels)):
    node = path.labels[: depth + 1]
    heights.setdefault(node, []).append(row)
    start = depth * options.segment
    scores[node] = path.logp[start : start + options.segment].mean()
height = {node: np.mean(rows) for node, rows in heights.items()}

norm = plt.Normalize(min(scores.values()), max(scores.values()))
scale = plt.cm.ScalarMappable(norm, 'viridis')
figure, axes = plt.subplots(figsize=(9, 4))
for node, score in scores.items():
  depth = len(node)
  before = height[node[:-1]]
  x = [depth - 1, depth - 0.75, depth]
  y = [before, height[node], height[node]]
  axes.plot(x, y, color=scale.to_rgba(score), linewidth=3)
for path, reward, advantage in zip(paths, rewards, advantages):
  colour = 'tab:green' if advantage > 0 else 'tab:red'
  axes.text(len(path.labels) + 0.08, height[path.labels], f'{reward:.2f}', color=colour, va='center')
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
key = np.arange(len(row.tokens))
query = key[:, None]
sees = (key <= query) & (query < row.until)
plt.figure(figsize=(4.5, 4.5))
plt.imshow(sees, cmap='Greys', interpolation='nearest')
plt.title(f'{len(row.tokens)} tokens instead of {plain}')
plt.xlabel('keys')
plt.ylabel('queries')
plt.show()
