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
# # One step of Vision-SR1, taken apart
#
# In Vision-SR1 a policy describes an image, reasons and answers; then it answers again from its description alone. If
# that second answer is right, the description is rewarded. This notebook makes one such step with a small policy,
# briefly trained by imitation, and looks at every part: descriptions, both answers, rewards and advantages.

# %%
import os

os.environ['JAX_PLATFORMS'] = 'cpu'

import dataclasses
import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np

from core.toy import shortcut
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
from rl.rollout.vision_sr1 import GENERATIONS, prompts, rewards

plt.rcParams.update({'figure.dpi': 80, 'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 11})
work = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## Questions with a shortcut
#
# The image shows two handwritten digits; the question asks for their sum, and gives it away in 9 of 10 cases. A policy
# that reads the number in brackets is often right without looking.

# %%
config = dataclasses.replace(CONFIGS['vision_sr1'], prompts=8)
place, home = meshes(config)
policy, weights = policies.load(config.model, place, seed=config.seed)
task = train.task_of(config)
longest = prompt_limit(policy, config, config.max_new, 0)
source = QuerySource(task, policy, config.seed, longest)
figure, axes = plt.subplots(1, 4, figsize=(9, 1.9))
for number, axis in enumerate(axes):
  query = source.query(number)
  axis.imshow(query.images[0])
  axis.set_title(prompts.question(query, config.sr1.instruction))
  axis.set_xlabel(f'answer {query.answer}')
  axis.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## The step
#
# The policy starts from random weights and imitates right responses, guesses that take the shortcut, and second passes.
# `VisionSr1` is a rollout plan: a function of an engine and of what is asked. `Collector` asks it for eight questions,
# with eight responses each, and has them rewarded.

# %%
shown = train.demonstrations_of(config, policy, task)
weights = supervise(Pass(policy), weights, shown, config.warmup, work, place, config)
sampler = Sampler(policy, weights, config.engine, home)
generation = GENERATIONS[config.sr1.generation]
plan = train.plan_of(config)
with Scorer(generation.reward, source.query(0)) as scorer:
  collect = Collector(scorer, config.prompts)
  collected = collect(sampler, plan, source, step=0, start=0)
groups = collected.groups
responses = [(group, t) for group in groups for t in group.trajectories]
two_passes = sum(bool(t.response.second) for _, t in responses)
print(f'{len(groups)} questions, {config.group} responses each, {two_passes} with a second pass')


# %% [markdown]
# ## Both passes
#
# The second pass reads the description and the question, not the image. A description suffices if it names the digits
# of the image: a right answer whose description does not suffice is a shortcut.


# %%
def suffices(group, t):
  """Whether a description names the digits of the image."""
  shown = prompts.description(group.query.solution)
  digits = tuple(map(int, shown.split()))
  return shortcut.sufficient(t.response.described, digits)


component = rewards.NAMES.index('description_accuracy')
second_right = [group.rewards[:, component] for group in groups]
row = int(np.argmax(np.std(second_right, axis=1)))  # the group whose second answers differ most
chosen = groups[row]
asked = prompts.question(chosen.query, config.sr1.instruction)
plt.figure(figsize=(2.2, 1.3))
plt.imshow(chosen.query.images[0])
plt.title(f'{asked} answer {chosen.query.answer}')
plt.axis('off')
plt.show()
for t in chosen.trajectories:
  remark = '' if suffices(chosen, t) else '  (the description does not suffice)'
  print('first ', repr(t.response.first))
  print('second', repr(t.response.second), remark, '\n')

# %% [markdown]
# ## Rewards and advantages
#
# Four components: the first answer and its form, the second answer and its form. The generation `c2` normalises each
# within its group and adds the weighted results into one advantage, which trains the tokens of the first pass.

# %%
packed = pack(policy, collected, 'shared')
rule = advantages.ADVANTAGES[generation.advantage]
gain = np.asarray(packed.advantages(rule))[..., 0]
print('weights', dict(zip(rewards.NAMES, generation.weights)))
print(f'{"description":<14}{"answer":>8}{"form":>6}{"second":>8}{"form":>6}{"advantage":>11}')
for t, parts, advantage in zip(chosen.trajectories, chosen.rewards, gain[row]):
  answer, form, second, second_form = parts
  print(f'{t.response.described!r:<14}{answer:8.0f}{form:6.0f}{second:8.0f}{second_form:6.0f}{advantage:+11.2f}')

# %% [markdown]
# ## What the step rewards
#
# Every response of the step, by its first answer and its description: mean advantage, with the self-visual reward
# (`c2`) and without (`no_self_reward`). Plain GRPO rewards a right answer even if the description is wrong; the second
# pass tells descriptions apart, if not perfectly, since it reads the question and its hint too.

# %%
right = np.array([rewards.right(group.query, t.response) for group, t in responses]) == 1
seen = np.array([suffices(group, t) for group, t in responses])
weights_alone = GENERATIONS['no_self_reward'].weights
answers_alone = np.array([group.rewards @ weights_alone for group in groups])
centred = answers_alone - answers_alone.mean(1, keepdims=True)
deviation = answers_alone.std(1, ddof=1, keepdims=True)
plain = centred / (deviation + 1e-6)
kinds = {
  'right,\nseen': right & seen,
  'right,\nnot seen\n(shortcut)': right & ~seen,
  'wrong,\nseen': ~right & seen,
  'wrong,\nnot seen': ~right & ~seen,
}


def means(values):
  """The mean of values over the responses of each kind; 0 where there is none."""
  return [values[which].mean() if which.any() else 0.0 for which in kinds.values()]


figure, axis = plt.subplots(figsize=(7, 3.4))
bars = np.arange(len(kinds))
axis.bar(bars - 0.18, means(gain.ravel()), 0.34, label='c2')
axis.bar(bars + 0.18, means(plain.ravel()), 0.34, label='without self-visual reward')
axis.axhline(0, color='black', linewidth=0.8)
axis.set_xticks(bars, [f'{name}\n{which.sum()} of {len(which)}' for name, which in kinds.items()])
axis.set_ylabel('mean advantage')
axis.legend(frameon=False)
plt.show()
rate = rewards.shortcut_rate(right, seen)
print(f'right {right.mean():.0%}, descriptions that suffice {seen.mean():.0%}, shortcut rate {rate:.0%}')
