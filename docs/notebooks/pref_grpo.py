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
# # Pref-GRPO: images that win comparisons
#
# A small text-to-image flow model learns to draw handwritten digits from captions such as "a thick slanted seven",
# first by flow matching, then by reinforcement learning from comparisons: a judge sees the images of a caption in
# pairs, and the reward of an image is the share of comparisons that it wins
# ([Pref-GRPO](https://arxiv.org/abs/2508.20751)). Two CPU cores need about two minutes. What a longer run learns, and
# how a score is hacked, is in [the docs](../pref_grpo.md).

# %%
import os

# Quick compilation, since the model is tiny. Set before JAX starts.
os.environ['XLA_FLAGS'] = '--xla_backend_optimization_level=0'
os.environ['JAX_PLATFORMS'] = 'cpu'

import dataclasses
import json
import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np

from core.engine import EngineSize
from rl import advantages
from rl.devices import meshes
from rl.flow import pretrain, train
from rl.flow.configs import CONFIGS
from rl.flow.gallery import grid
from rl.flow.judges.similarity import ScoreJudge
from rl.flow.policy import PathOptions, Paths
from rl.flow.toy import digits, judges
from rl.rewards.pairwise import Pairwise
from rl.rollout import Ask, Sampler

plt.rcParams.update({'figure.dpi': 80, 'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 11})
work = pathlib.Path(tempfile.mkdtemp())


def show(images, columns, title):
  """A grid of images, dark on light."""
  sheet = grid(images, columns)
  plt.figure(figsize=(sheet.width / 100, sheet.height / 100))
  plt.imshow(sheet, cmap='gray', vmin=0, vmax=255)
  plt.title(title, loc='left')
  plt.axis('off')
  plt.show()


# %% [markdown]
# ## Captions
#
# scikit-learn's 1,797 scans have no captions. Thickness and slant are measured, and a scan above the median of its
# digit is "thick", or "slanted".

# %%
scans = digits.scans('train')
chosen = [np.flatnonzero(scans.digit == digit)[0] for digit in range(10)]
show(digits.decode(scans.pixels[chosen]), 10, 'scans')
print(', '.join(scans.caption(i) for i in chosen[:4]), '…')

# %% [markdown]
# ## Flow matching
#
# The model is a multimodal diffusion transformer, the code of SD3 with smaller sizes. It learns the velocity from a
# scan to noise, x_1 − x_0, at random times.

# %%
named = CONFIGS['pref_grpo']
config = dataclasses.replace(
  named,
  pretraining=dataclasses.replace(named.pretraining, steps=120, batch=64),
  paths=PathOptions(steps=10),
  steps=6,
  eval_queries=40,
  eval_every=6,
)
place, home = meshes(config)
policy, weights = train.load(config, place)
weights = pretrain.pretrain(policy, weights, digits.draw, config.pretraining, work, place, config)
policy.save(work / 'base', weights)

losses = [json.loads(line)['loss'] for line in (work / 'pretraining' / 'metrics.jsonl').read_text().splitlines()]
plt.figure(figsize=(5, 2))
plt.plot(losses)
plt.xlabel('update')
plt.ylabel('flow matching loss')
plt.show()

# %% [markdown]
# ## A group of images
#
# In training each denoising step adds noise of a known size, so that a step is a sample from a Gaussian with a density.
# The images of a group share their first noise and then diverge.

# %%
sampler = Sampler(policy, weights, EngineSize(), home)
captions = ['a thick upright zero', 'a thin slanted seven', 'a thick slanted three', 'a thin upright four']
queries = [digits.query('heldout', 0, digits.PROMPTS.index(caption)) for caption in captions]
prompts = [policy.encode(caption) for caption in captions]
groups = Paths(8)(sampler, Ask(0, 0, range(len(captions)), queries, prompts))
images = [[path.response for path in group] for group in groups]
show([image for group in images for image in group], 8, 'eight images each of: ' + ', '.join(captions[:2]) + ', …')

# %% [markdown]
# ## Comparisons
#
# A judge is any function (prompt, first, second) that returns 'first', 'second' or 'tie'. This one compares a noisy
# score and calls small differences a tie. In the matrix, white means that the image of the row wins.

# %%
judge = ScoreJudge(judges.Score(noise=0.02).of, zone=0.1)
outcome = {'first': 1.0, 'tie': 0.5, 'second': 0.0}
group = images[1]
matrix = [[outcome[judge(captions[1], a, b)] for b in group] for a in group]
plt.figure(figsize=(2.6, 2.6))
plt.imshow(matrix, cmap='gray', vmin=0, vmax=1)
plt.xlabel('second image')
plt.ylabel('first image')
plt.title(captions[1])
plt.show()

compared = Pairwise(judge, workers=1)
wins = np.float32([[sample['win'] for sample in compared(query, group)] for query, group in zip(queries, images)])
gain = np.asarray(advantages.grpo(wins))
for caption, row, worth in zip(captions, wins, gain):
  print(f'{caption:24} win rates {np.round(row, 2)}')
  print(f'{"":24} advantages {np.round(worth, 2)}')

# %% [markdown]
# Win rates of a group average ½. The advantage divides their differences by their deviation.

# %% [markdown]
# ## Updates
#
# The same loop as for language models samples, compares and updates: six rollouts of eight captions, two updates
# each.

# %%
config = dataclasses.replace(
  config, model=str(work / 'base'), pretraining=dataclasses.replace(config.pretraining, steps=0)
)
outcome = train.train(config, work / 'run')

# %% [markdown]
# A ratio compares the probability of a step under the present weights with that under the weights that sampled it. Its
# logarithm is a mean over pixels, so the clip range is 0.0001. The metrics are of the second update of each rollout,
# which starts from weights that the first has moved: half of the ratios are clipped. Before the first update all are 1.

# %%
for line in (work / 'run' / 'metrics.jsonl').read_text().splitlines():
  metrics = json.loads(line)
  names = ('sampler_gap', 'ratio', 'clipped', 'reward/preference.ties', 'reward/score', 'right')
  print('  '.join(f'{name} {metrics[name]:.4g}' for name in names))

# %% [markdown]
# Held-out captions before and after, from the same noise. Six rollouts are too few to see a gain: the intervals of 40
# captions are wide. What a longer run learns is in [the docs](../pref_grpo.md).

# %%
for result, title in ((outcome.before, 'before'), (outcome.after, 'after')):
  show(list(result.responses), 20, f'{title}: {sum(result.right):.0f} of {len(result.right)} right')
