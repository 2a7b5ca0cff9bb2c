"""Named configurations of `python -m rl.train`."""

import dataclasses

from core.launch import field
from core.train import Optim
from rl.losses import RULES, Rule
from rl.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Warmup:
  """The short supervised phase before reinforcement learning."""

  steps: int = field(60, 'supervised updates')
  batch: int = field(128, 'examples an update')
  optim: Optim = field(Optim('muon', lr=5e-3, schedule='constant', warmup_steps=10), 'optimiser')


@dataclasses.dataclass(frozen=True)
class Config:
  """Reinforcement learning of an InternVL policy by exact-match reward."""

  model: str = field('tiny', 'size to train from scratch, of internvl.CONFIGS')
  task: str = field('digits', 'where queries come from, of rl.tasks.TASKS')
  seed: int = field(0, 'of initial weights, queries and sampling')
  warmup: Warmup = field(Warmup(), 'supervised start')
  steps: int = field(200, 'rollouts')
  prompts: int = field(128, 'prompts a rollout')
  group: int = field(16, 'samples of each prompt')
  updates: int = field(1, 'optimiser updates a rollout, each on its own share of the prompts')
  accumulate: int = field(1, 'micro-batches an update')
  max_new: int = field(4, 'longest answer in tokens, the stop token included')
  temperature: float = field(1.0, 'of sampling in training; evaluation is greedy')
  rule: Rule = field(RULES['dapo'], 'clipping and averaging of the loss')
  optim: Optim = field(Optim('muon', lr=2e-3, schedule='constant', warmup_steps=5), 'optimiser')
  eval_queries: int = field(1024, 'held-out questions before and after')
  eval_every: int = field(20, 'rollouts between looks at 256 held-out questions')
  save_every: int = field(25, 'steps between checkpoints')

  def __post_init__(self):
    if self.task not in TASKS:
      raise ValueError(f'task={self.task!r}: expected one of {", ".join(TASKS)}')
    for name in ('steps', 'prompts', 'updates', 'accumulate', 'max_new', 'eval_queries', 'eval_every', 'save_every'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)}: expected 1 or more')
    if self.group < 2:
      raise ValueError(f'group={self.group}: expected 2 or more, since a sample is compared with its group')
    if self.prompts % self.updates:
      raise ValueError(f'updates={self.updates} does not divide prompts={self.prompts}')
    if self.prompts // self.updates % self.accumulate:
      raise ValueError(f'accumulate={self.accumulate} does not divide the {self.prompts // self.updates} prompts of an '
                       'update')
    if self.temperature <= 0:
      raise ValueError(f'temperature={self.temperature}: expected a positive number; greedy samples do not differ')


CONFIGS = {
    'digits': Config(),
    'expressions': Config(task='expressions', warmup=Warmup(steps=300), rule=RULES['gspo'], max_new=48),
    # Seconds instead of minutes: for tests and for trying a flag.
    'smoke': Config(warmup=Warmup(steps=4, batch=8, optim=Optim(schedule='constant')), optim=Optim(schedule='constant'),
                    steps=3, prompts=4, group=2, eval_queries=16, eval_every=2,
                    save_every=2),
}
