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
# # One step of SvS, taken apart
#
# In SvS one policy solves problems, writes variants of those that it half solves, and solves the variants. Here a small
# policy that has imitated sums makes one such step, and we look at every part: problems, solutions, texts, how often
# their variants are solved, rewards and advantages.

# %%
import os

os.environ['JAX_PLATFORMS'] = 'cpu'

import dataclasses
import pathlib
import re
import tempfile

import matplotlib.pyplot as plt
import numpy as np

from rl import advantages, train
from rl import policy as policies
from rl.configs import CONFIGS
from rl.devices import meshes
from rl.learning.batch import pack
from rl.learning.supervised import supervise
from rl.learning.update import Pass
from rl.loop import prompt_limit
from rl.rewards import Scorer
from rl.rollout import Sampler
from rl.rollout.collect import Collector, QuerySource
from rl.rollout.svs import KINDS, prompts

plt.rcParams.update({'figure.dpi': 80, 'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 11})
work = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## A policy that half solves problems
#
# Problems are sums of 2 to 7 digits; a solution restates the problem, lists running sums and boxes the last. The policy
# reads and writes bytes and starts from random weights. It imitates solutions, and variants written from solutions.

# %%
named = CONFIGS['svs']
short = dataclasses.replace(named.warmup, steps=300, batch=32)
config = dataclasses.replace(named, warmup=short, prompts=8)
place, home = meshes(config)
policy, weights = policies.load(config.model, place, seed=config.seed)
task = train.task_of(config)
shown = train.demonstrations_of(config, policy, task)
weights = supervise(Pass(policy), weights, shown, config.warmup, work, place, config)

# %% [markdown]
# ## The step
#
# `Svs` is a rollout plan: a function of an engine and of what is asked. `Collector` asks it for eight problems, with
# eight responses each, and grades what it samples. The wrapper keeps what the plan returned.

# %%
sampler = Sampler(policy, weights, config.engine, home)
source = QuerySource(task, policy, config.seed, prompt_limit(policy, config, config.max_new, 0))
plan = train.plan_of(config)
rollouts = []


def watched(sampler, ask):
  """The plan, whose rollout is kept for us."""
  rollouts.append(plan(sampler, ask))
  return rollouts[-1]


with Scorer(task.rewards, source.query(0)) as scorer:
  collected = Collector(scorer, config.prompts)(sampler, watched, source, step=0, start=0)
(rollout,) = rollouts
by_kind = {kind: [] for kind in KINDS}
for group in [*rollout.asked, *rollout.further]:
  by_kind[KINDS[group.trajectories[0].kind]].append(group)
for kind, groups in by_kind.items():
  print(f'{kind:<8}{len(groups):4} groups of {config.group} responses')

# %% [markdown]
# ## Problems and their solutions
#
# A problem is half solved if 1 to 4 of its 8 responses are right. Variants are written from its right responses.

# %%
for group in by_kind['solve']:
  correct = int(group.right.sum())
  mark = 'half solved' if config.svs.half_solved(correct, config.group) else ''
  print(f'{group.query.messages[0]["content"]:<14} {correct} of {config.group} right  {mark}')

written = next(group for group in by_kind['write'] if 0 < group.totals.sum() < len(group.totals))
chosen = next(group for group in by_kind['solve'] if group.number == written.number)
print(f'\n{chosen.query.messages[0]["content"]}')
for t, right in zip(chosen.trajectories, chosen.right):
  print('  right' if right else '  wrong', repr(t.response))

# %% [markdown]
# ## Texts and their variants
#
# The writer sees one right solution. What it puts into a closed fence is the variant; a text without one is worth
# nothing. The answer of the problem grades the solutions of its variant, so a variant that has another answer is seldom
# solved. A text is rewarded if 1 to 5 of the 8 solutions are right: not too hard, not too easy.

# %%
variants = iter(by_kind['variant'])  # in the order of the texts that have one
solutions = {
  id(t): next(variants) for group in by_kind['write'] for t in group.trajectories if prompts.extract(t.response)
}
print('the writer reads', repr(policy.tokenizer.decode(written.trajectories[0].prompt.tokens)), '\n')
for t, reward in zip(written.trajectories, written.totals):
  solved = 'no variant'
  if id(t) in solutions:
    total = sum(map(int, re.findall(r'\d+', prompts.extract(t.response))))
    solved = f'sums to {total}, {int(solutions[id(t)].right.sum())} of {config.group} right'
  print(f'{t.response!r:<40} {solved:<26} reward {reward:.0f}')

# %% [markdown]
# This policy often writes a sum with another answer. As it adds badly too, the answer that is asked for is sometimes
# given all the same, and the text is rewarded: no judge but the original answer tells such a variant from a hard one.

# %% [markdown]
# ## The batch
#
# Groups of all three kinds are trained on together, each normalised on its own; groups without a contrast are left out.

# %%
packed = pack(policy, collected, 'shared', kinds=True)
gain = np.asarray(packed.advantages(advantages.ADVANTAGES['grpo']))[..., 0]
kinds = [group.trajectories[0].kind for group in collected.groups]
for number, kind in enumerate(KINDS):
  print(f'{kind:<8}{kinds.count(number):4} of {len(by_kind[kind])} groups trained on')
of_texts = next(i for i, group in enumerate(collected.groups) if group is written)
print('advantages of the texts above:', np.round(gain[of_texts, : len(written.totals)], 2))

# %% [markdown]
# ## The band
#
# Every variant of the step: how often its parent was solved, and how often it was solved itself. Only those in the band
# are worth something to their writer.

# %%
parents = {group.number: group.right.mean() for group in by_kind['solve']}
x = np.array([parents[group.number] for group in by_kind['variant']])
y = np.array([group.right.mean() for group in by_kind['variant']])
paid = (y >= config.svs.reward_low) & (y <= config.svs.reward_high)
jitter = np.random.default_rng(0).uniform(-0.02, 0.02, (2, len(x)))
figure, axis = plt.subplots(figsize=(6.5, 4))
axis.axhspan(config.svs.reward_low, config.svs.reward_high, color='tab:green', alpha=0.12, label='rewarded')
axis.axvspan(config.svs.low, config.svs.high, color='tab:blue', alpha=0.08, label='half solved')
for which, color in ((paid, 'tab:green'), (~paid, 'tab:gray')):
  axis.scatter((x + jitter[0])[which], (y + jitter[1])[which], s=14, color=color)
axis.set(xlabel='accuracy of the problem', ylabel='accuracy of the variant', xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
axis.legend(frameon=False, loc='upper right')
plt.show()
print(f'{len(y)} variants, {paid.mean():.0%} of them in the band')
assert 0 < paid.mean() < 1
