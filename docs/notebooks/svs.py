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
# policy, trained by imitation on sums, makes one such step, and we look at every part: problems, solutions, texts, how
# often their variants are solved, rewards and advantages.

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
# eight responses each, and grades what it samples. The wrapper records what the plan returns.

# %%
sampler = Sampler(policy, weights, config.engine, home)
longest = prompt_limit(policy, config, config.max_new, 0)
source = QuerySource(task, policy, config.seed, longest)
plan = train.plan_of(config)
rollouts = []


def watched(sampler, ask):
  """The plan; its rollout is recorded."""
  rollout = plan(sampler, ask)
  rollouts.append(rollout)
  return rollout


with Scorer(task.rewards, source.query(0)) as scorer:
  collect = Collector(scorer, config.prompts)
  collected = collect(sampler, watched, source, step=0, start=0)
(rollout,) = rollouts
by_kind = {kind: [] for kind in KINDS}
for group in [*rollout.asked, *rollout.further]:
  kind = KINDS[group.trajectories[0].kind]
  by_kind[kind].append(group)
for kind, groups in by_kind.items():
  print(f'{kind:<8}{len(groups):4} groups of {config.group} responses')

# %% [markdown]
# ## Problems and their solutions
#
# A problem is half solved if 1 to 4 of its 8 responses are right. Variants are written from its right responses.


# %%
def problem(group):
  """The text of the problem that a group answers."""
  return group.query.messages[0]['content']


def has_contrast(group):
  """Whether some texts of a group are rewarded, but not all."""
  return 0 < group.totals.sum() < len(group.totals)


for group in by_kind['solve']:
  correct = int(group.right.sum())
  half_solved = config.svs.half_solved(correct, config.group)
  mark = 'half solved' if half_solved else ''
  print(f'{problem(group):<14} {correct} of {config.group} right  {mark}')

written = next(filter(has_contrast, by_kind['write']))
chosen = next(group for group in by_kind['solve'] if group.number == written.number)
print(f'\n{problem(chosen)}')
for t, right in zip(chosen.trajectories, chosen.right):
  verdict = 'right' if right else 'wrong'
  print(f'  {verdict} {t.response!r}')

# %% [markdown]
# ## Texts and their variants
#
# The writer sees one right solution. The variant is what it puts into a closed fence; a text without a fence gets no
# reward. The answer of the problem grades the solutions of its variant, so a variant with another answer is seldom
# solved. A text is rewarded if 1 to 5 of the 8 solutions are right: the variant is neither too hard nor too easy.

# %%
texts = [t for group in by_kind['write'] for t in group.trajectories]
with_variant = [t for t in texts if prompts.extract(t.response)]
solutions = {id(t): group for t, group in zip(with_variant, by_kind['variant'])}  # both are in the order of the texts
read = policy.tokenizer.decode(written.trajectories[0].prompt.tokens)
print('the writer reads', repr(read), '\n')
for t, reward in zip(written.trajectories, written.totals):
  solved = 'no variant'
  if id(t) in solutions:
    terms = re.findall(r'\d+', prompts.extract(t.response))
    total = sum(map(int, terms))
    correct = int(solutions[id(t)].right.sum())
    solved = f'sums to {total}, {correct} of {config.group} right'
  print(f'{t.response!r:<40} {solved:<26} reward {reward:.0f}')

# %% [markdown]
# This policy often writes a sum with another answer. It also adds badly, so a solution sometimes gives the expected
# answer anyway, and the text is rewarded: only the original answer is checked, which cannot tell such a variant from a
# hard one.

# %% [markdown]
# ## The batch
#
# The policy trains on groups of all three kinds, each normalised on its own; groups whose rewards are equal are left
# out.

# %%
packed = pack(policy, collected, 'shared', kinds=True)
grpo = advantages.ADVANTAGES['grpo']
gain = np.asarray(packed.advantages(grpo))[..., 0]
kinds = [group.trajectories[0].kind for group in collected.groups]
for number, kind in enumerate(KINDS):
  print(f'{kind:<8}{kinds.count(number):4} of {len(by_kind[kind])} groups trained on')
row = next(i for i, group in enumerate(collected.groups) if group is written)
texts = len(written.totals)
print('advantages of the texts above:', np.round(gain[row, :texts], 2))

# %% [markdown]
# ## The band
#
# Every variant of the step: how often its parent was solved, and how often it was solved itself. Only variants in the
# band earn their writer a reward.

# %%
parents = {group.number: group.right.mean() for group in by_kind['solve']}
of_problem = np.array([parents[group.number] for group in by_kind['variant']])
of_variant = np.array([group.right.mean() for group in by_kind['variant']])
svs = config.svs
paid = (of_variant >= svs.reward_low) & (of_variant <= svs.reward_high)
jitter_x, jitter_y = np.random.default_rng(0).uniform(-0.02, 0.02, (2, len(paid)))  # or equal points hide each other
x = of_problem + jitter_x
y = of_variant + jitter_y
figure, axis = plt.subplots(figsize=(6.5, 4))
axis.axhspan(svs.reward_low, svs.reward_high, color='tab:green', alpha=0.12, label='rewarded')
axis.axvspan(svs.low, svs.high, color='tab:blue', alpha=0.08, label='half solved')
axis.scatter(x[paid], y[paid], s=14, color='tab:green')
axis.scatter(x[~paid], y[~paid], s=14, color='tab:gray')
axis.set(xlabel='accuracy of the problem', ylabel='accuracy of the variant', xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
axis.legend(frameon=False, loc='upper right')
plt.show()
print(f'{len(paid)} variants, {paid.mean():.0%} of them in the band')
assert 0 < paid.mean() < 1
