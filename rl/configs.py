"""Named configurations of `python -m rl.train`."""

import dataclasses
from typing import Literal

from core.engine import EngineSize
from core.launch.fields import field
from core.mesh import Shape
from core.training.optim import Optim
from rl import advantages
from rl.losses import RULES, Rule
from rl.preference import Sizes
from rl.recipes.cascade import Offline
from rl.recipes.mpo import MpoPhase
from rl.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Warmup:
  """The short supervised phase before reinforcement learning."""

  steps: int = field(60, 'supervised updates; 0: none')
  batch: int = field(128, 'examples an update')
  optim: Optim = field(Optim('muon', lr=5e-3, schedule='constant', warmup_steps=10), 'optimiser')


@dataclasses.dataclass(frozen=True)
class Config:
  """Reinforcement learning of an InternVL policy by reward."""

  model: str = field('tiny', 'folder of a checkpoint; or tiny, trained from scratch')
  task: str = field('digits', f'where queries come from: {", ".join(TASKS)}; not looked at when there is data')
  data: tuple[str, ...] = field((), "JSONL, Parquet or ArrayRecord files of queries in InternVL's format")
  heldout: tuple[str, ...] = field((), 'files of held-out queries; needed with data')
  reward: Literal['exact_match', 'boxed', 'boxed_and_format', 'boxed_symbolic'] = field(
    'boxed_and_format', 'of an answer to a query from data'
  )
  prompt_length: int = field(0, 'prompt slots; 0: room for the longest of 256 queries')
  tiles: int = field(0, 'image tiles of a prompt, padded to so many; 0: as many as the most in a rollout')
  dtype: Literal['float32', 'bfloat16'] = field('float32', 'of arithmetic and sampling; trained weights are float32')
  seed: int = field(0, 'of initial weights, queries and sampling')
  warmup: Warmup = field(Warmup(), 'supervised start')
  offline: Offline = field(Offline(), 'the offline phase of a cascade')
  steps: int = field(160, 'rollouts')
  prompts: int = field(128, 'prompts a rollout')
  group: int = field(16, 'samples of each prompt')
  dynamic: bool = field(False, 'sample until all groups are mixed: neither all right nor all wrong (DAPO)')
  advantage: advantages.Name = field('grpo', 'how rewards are compared (rl/advantages.py)')
  updates: int = field(1, 'optimiser updates a rollout, each on its own share of the prompts')
  accumulate: int = field(1, 'micro-batches an update')
  remat: Literal['none', 'dots', 'full'] = field('none', 'what the backward pass recomputes')
  max_new: int = field(4, 'longest answer in tokens, the stop token included')
  temperature: float = field(1.0, 'of sampling in training; evaluation is greedy')
  rule: Rule = field(RULES['dapo'], 'clipping and averaging of the loss', choices=RULES)
  optim: Optim = field(Optim('muon', lr=2e-3, schedule='constant', warmup_steps=5), 'optimiser')
  trainable: str = field('', r'regex of the weights that reward trains, such as (?:projector|language)\..*; none = all')
  engine: EngineSize = field(EngineSize(), 'room of the rollout engine')
  engine_mesh: Shape = field(Shape(), 'axes of the devices of one engine; data repeats its weights')
  engine_processes: int = field(1, 'processes that share one engine, for a model too big for the devices of one')
  ahead: bool = field(False, 'sample the next rollout on half of the devices while the other half updates')
  mesh: Shape = field(Shape(), 'axes of the devices that update')
  reward_seconds: float = field(10.0, 'longest time for one reward; a sample whose reward fails or takes longer gets 0')
  eval_queries: int = field(1024, 'held-out questions before and after')
  eval_samples: int = field(0, 'answers drawn to each of them besides, for pass@k')
  eval_every: int = field(20, 'rollouts between looks at 256 held-out questions')
  save_every: int = field(25, 'steps between checkpoints')

  def __post_init__(self):
    if self.task not in TASKS:
      raise ValueError(f'task={self.task!r}: expected one of {", ".join(TASKS)}')
    for name in (
      'steps',
      'prompts',
      'updates',
      'accumulate',
      'max_new',
      'engine_processes',
      'eval_queries',
      'eval_every',
      'save_every',
    ):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)}: expected 1 or more')
    if bool(self.data) != bool(self.heldout):
      raise ValueError(f'data={self.data}, heldout={self.heldout}: expected both or neither')
    if min(self.warmup.steps, self.prompt_length, self.tiles) < 0:
      raise ValueError(
        f'warmup.steps={self.warmup.steps}, prompt_length={self.prompt_length}, tiles={self.tiles}: expected 0 or more'
      )
    if self.group < 2:
      raise ValueError(f'group={self.group}: expected 2 or more, since a sample is compared with its group')
    if self.prompts % self.updates:
      raise ValueError(f'updates={self.updates} does not divide prompts={self.prompts}')
    if self.prompts // self.updates % self.accumulate:
      raise ValueError(
        f'accumulate={self.accumulate} does not divide the {self.prompts // self.updates} prompts of an update'
      )
    for name, optim, updates in (
      ('warmup.optim', self.warmup.optim, self.warmup.steps),
      ('optim', self.optim, self.steps * self.updates),
    ):
      if updates and optim.warmup_steps >= updates:
        raise ValueError(f'{name}.warmup_steps={optim.warmup_steps}: expected fewer than its {updates} updates')
    if self.temperature <= 0:
      raise ValueError(f'temperature={self.temperature}: expected a positive number; greedy samples do not differ')


# The online stage of InternVL3.5: the scripts of OpenGVLab/InternVL, `shell/internvl3.5`, one epoch of MMPR-Tiny's 70K
# queries, and the bounds of GSPO. 12 tiles and a thumbnail fit; 16 are shared out evenly. The scripts freeze the vision
# tower, which they call a workaround; the paper does not say.
GSPO = Config(
  warmup=Warmup(steps=0),
  steps=137,
  prompts=512,
  group=16,
  updates=16,
  prompt_length=8192,
  tiles=16,
  max_new=32768,
  dtype='bfloat16',
  remat='full',
  rule=RULES['gspo'],
  optim=Optim(lr=1e-6, schedule='constant'),
  trainable=r'(?:projector|language)\..*',
  engine=EngineSize(slots=256, pages=8192, page_size=128, segment=32),
)

EXPRESSIONS = Config(
  task='expressions',
  warmup=Warmup(steps=300),
  steps=40,
  prompts=64,
  rule=RULES['gspo'],
  max_new=48,
  optim=Optim('muon', lr=2e-3, schedule='cosine', warmup_steps=2),
  eval_every=10,
  engine=EngineSize(slots=512, pages=3072, segment=16),
)

CONFIGS = {
  'digits': Config(),
  'expressions': EXPRESSIONS,
  'cascade': dataclasses.replace(
    EXPRESSIONS,
    steps=24,
    offline=Offline(
      queries=4096,
      samples=4,
      most=2,
      phase=MpoPhase(
        steps=60,
        batch=64,
        reference_batch=64,
        sizes=Sizes(prompt=48, answer=48, tiles=3),
        optim=Optim('muon', lr=2e-4, schedule='constant', warmup_steps=5),
      ),
    ),
  ),
  # For 256 devices: 32 prompts an update, the 16 answers to each on 8 devices.
  '8b_gspo': dataclasses.replace(GSPO, model='8B', mesh=Shape(data=32, expert=2, seq=4)),
  # For 1024 devices; two epochs.
  '241b_gspo': dataclasses.replace(
    GSPO,
    model='241B-A28B',
    steps=274,
    updates=8,
    accumulate=2,
    optim=Optim(lr=8e-7, schedule='constant', clip_norm=0.5),
    mesh=Shape(data=32, expert=8, seq=4),
  ),
  # Seconds instead of minutes: for tests and for trying a flag.
  'smoke': Config(
    warmup=Warmup(steps=4, batch=8, optim=Optim(schedule='constant')),
    optim=Optim(schedule='constant'),
    steps=3,
    prompts=4,
    group=2,
    eval_queries=16,
    eval_every=2,
    save_every=2,
    engine=EngineSize(slots=8, pages=64, chunk=64),
  ),
}
