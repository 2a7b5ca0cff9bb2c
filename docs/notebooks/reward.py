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
# # A reward of your own, from a cell to a curve
#
# You write a function that scores a response; `rl.run` trains a policy to raise that score. This notebook starts from
# random weights, so nothing is downloaded, and two CPU cores need about two minutes. With the folder of a checkpoint in
# place of `'tiny-text'` the same call trains a published model.

# %%
import os

# Quick compilation, since the model is tiny. Set before JAX starts.
os.environ['XLA_FLAGS'] = '--xla_backend_optimization_level=0'
os.environ['JAX_PLATFORMS'] = 'cpu'

import json
import pathlib
import tempfile

import matplotlib.pyplot as plt

import rl
from core.engine import EngineSize
from core.training.optim import Optim
from rl import advantages

plt.rcParams.update({'figure.dpi': 80, 'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 11})
work = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## The reward
#
# A reward is a function of a query and a response. Ours rewards digits: it is the share of digits among the eight
# characters that a response may have. It may use anything that this notebook defines.

# %%
LENGTH = 8  # tokens of a response; the tiny policy reads and writes bytes


def digits(query, response):
  """The share of digits in a response, from 0 to 1."""
  return sum(character in '0123456789' for character in response) / LENGTH


print(digits(None, 'call 555'), digits(None, '24681357'))

# %% [markdown]
# ## One call
#
# The questions are the prompts. Each rollout draws four of them and samples 16 responses to each; every response is
# compared with the others of its group, and the weights move towards the better ones. All other options have defaults:
# `python -m rl.train --help` lists the options and their meanings.

# %%
questions = ['Name some digits.', 'Give me a number.', 'Which code opens the door?', 'How many stars are there?']
options = {
  'steps': 40,  # rollouts
  'prompts': 4,  # of each rollout
  'group': 16,  # responses to each prompt
  'max_new': LENGTH,
  'optim': Optim('muon', lr=4e-3, schedule='constant', warmup_steps=5),
  'engine': EngineSize(slots=64, pages=512, segment=8),
}
first = rl.run('tiny-text', questions, rewards=digits, workdir=work / 'digits', **options)

# %% [markdown]
# ## The curve
#
# The folder of a run holds `metrics.jsonl` (one line a rollout), a report and the trained policy.


# %%
def curve(name, key='reward'):
  """A metric of every rollout of the run in a folder."""
  return [json.loads(line)[key] for line in (work / name / 'metrics.jsonl').read_text().splitlines()]


reward = curve('digits')
plt.figure(figsize=(6, 2.8))
plt.plot(reward, label='mean of 64 responses')
plt.axhline(reward[0], color='tab:gray', linestyle='--', label='before training')
plt.ylim(0, 1.05)
plt.xlabel('rollout')
plt.ylabel('share of digits')
plt.legend(frameon=False)
plt.tight_layout()
plt.show()
assert reward[-1] > 0.9 > 0.1 > reward[0]

# %%
for query, before, after in zip(first.before.queries, first.before.responses, first.after.responses):
  print(f'{query.messages[0]["content"]:<28} before: {before!r:<40} after: {after!r}')

# %% [markdown]
# It does what we rewarded and nothing else: one digit, over and over. This is how rewards usually go wrong, and here it
# is cheap to see.
#
# ## A second component
#
# We also want different digits. Several rewards are passed by name, each with a weight if that is not 1. The metrics
# then show every component.


# %%
def varied(query, response):
  """The share of a response's characters that are digits not yet seen in it, from 0 to 1."""
  return len(set(response) & set('0123456789')) / LENGTH


both = {'digits': digits, 'varied': varied}  # (varied, 2.0) would count it twice
second = rl.run('tiny-text', questions, rewards=both, workdir=work / 'both', **options)

# %% [markdown]
# ## Another advantage
#
# An advantage turns the rewards of a group into the weight of each response in the update. GRPO, the default, adds the
# components first, so the one that varies most between responses dominates. GDPO (arXiv 2601.05242) normalises each
# component on its own, so a small one counts as much. Both are plain functions of arrays. Below, the last response is
# the second best for variety: GDPO pulls it up, GRPO pushes it down.

# %%
sample = ['77777777', '77777776', '77777abc', '1234wxyz']
rewards = [[[digits(None, text), varied(None, text)] for text in sample]]
scores = advantages.Scores(rewards, weights=[1.0, 1.0], valid=[[True] * 4], mask=[[[True] * LENGTH] * 4])
print('response    GRPO   GDPO')
by_rule = {name: advantages.ADVANTAGES[name](scores)[0, :, 0] for name in ('grpo', 'gdpo')}
for text, grpo, gdpo in zip(sample, by_rule['grpo'], by_rule['gdpo']):
  print(f'{text:<10} {grpo:6.2f} {gdpo:6.2f}')

# %%
third = rl.run('tiny-text', questions, rewards=both, advantage='gdpo', workdir=work / 'gdpo', **options)

# %%
_, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharex=True)
for axis, component in zip(axes, both):
  for name, label in (('both', 'GRPO on the sum'), ('gdpo', 'GDPO')):
    axis.plot(curve(name, f'reward/{component}'), label=label)
  axis.set_title(component)
  axis.set_xlabel('rollout')
  axis.set_ylim(0, None)
axes[1].plot([1 / LENGTH] * options['steps'], color='tab:gray', linestyle='--', label='one digit only')
axes[1].legend(frameon=False)
plt.tight_layout()
plt.show()

for name, outcome in (('digits alone', first), ('both, GRPO', second), ('both, GDPO', third)):
  print(f'{name:<14}', *outcome.after.responses)

# %% [markdown]
# Both learn to write digits. In this run GRPO on the sum settles on one digit for fifteen rollouts before it finds a
# second; under GDPO variety never stops counting.
#
# ## Where next
#
# - `docs/rl.md`: rewards of whole groups, advantages, loss rules, and how to add your own to the registries.
# - `rewards='boxed'` and the other names in `rl.rewards.REWARDS` compare with a query's right answer
#   (`rl.tasks.questions` takes queries with answers, and others that are held out).
# - `rule='gspo'`, `ema=0.99`, `dynamic=True`: every field of `rl.configs.Training` is an argument of `rl.run`.
# - The same call again continues a run that was stopped, or reports one that has ended.
