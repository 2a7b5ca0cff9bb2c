"""Named configurations of `python -m rl.train`."""

import dataclasses
import re
from typing import Any, Literal

from core.engine import EngineSize
from core.engine.sampling import Sampling
from core.launch.fields import field
from core.mesh import Shape
from core.training.optim import Optim
from rl import advantages, rewards
from rl.learning import objective
from rl.losses import RULES, Rule
from rl.policy import Draw, Layout
from rl.preference import Limits, MpoPhase, Offline
from rl.rewards import Length
from rl.rollout.svs.settings import Synthesis
from rl.rollout.tree.settings import Branching
from rl.rollout.vision_sr1.settings import Sr1
from rl.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Supervision:
  """The short supervised phase before reinforcement learning."""

  steps: int = field(60, 'supervised updates; 0: none')
  batch: int = field(128, 'examples an update')
  variants: bool = field(False, 'every other example writes a variant of a problem, as SvS and its controls start')
  optim: Optim = field(Optim('muon', lr=5e-3, schedule='constant', warmup_steps=10), 'optimiser')

  def __post_init__(self):
    if self.steps < 0 or self.batch < 1:
      raise ValueError(f'steps={self.steps}, batch={self.batch}: expected 0, 1 or more')


@dataclasses.dataclass(frozen=True)
class Training:
  """What every run of reinforcement learning has, for any policy, task and rollout plan."""

  dtype: Literal['float32', 'bfloat16'] = field('float32', 'of arithmetic and sampling; trained weights are float32')
  seed: int = field(0, 'of initial weights, queries and sampling')
  prompts: int = field(128, 'prompts a rollout')
  group: int = field(16, 'samples of each prompt')
  dynamic: bool = field(False, 'sample until all groups are mixed: neither all right nor all wrong (DAPO)')
  advantage: advantages.Name = field('grpo', 'how rewards are compared (rl/advantages/registry.py)')
  length: Length = field(Length(), 'what the length of a response costs')
  updates: int = field(1, 'optimiser updates of a full rollout, each on its own share of the prompts')
  accumulate: int = field(1, 'micro-batches an update')
  remat: Literal['none', 'dots', 'full'] = field('none', 'what the backward pass recomputes')
  temperature: float = field(1.0, 'of sampling in training')
  top_p: float = field(1.0, 'of sampling in training: the most probable tokens that make up this probability')
  top_k: int = field(0, 'of sampling in training: that many most probable tokens; 0: all')
  min_p: float = field(0.0, 'of sampling in training: tokens of at least this share of the highest probability')
  rule: Rule = field(RULES['dapo'], 'clipping and averaging of the loss', choices=RULES)
  optim: Optim = field(Optim('muon', lr=2e-3, schedule='constant', warmup_steps=5), 'optimiser')
  trainable: str = field('', r'regex of the weights that reward trains, such as (?:projector|language)\..*; none = all')
  ema: float = field(0.0, 'decay, at each update, of averaged weights that are kept as well; 0: none')
  export: Literal['last', 'average'] = field('last', 'which weights are evaluated and exported')
  engine: EngineSize = field(EngineSize(), 'size of the rollout engine')
  engine_mesh: Shape = field(Shape(), 'axes of the devices of one engine; data repeats its weights')
  engine_processes: int = field(1, 'processes that share one engine, for a model too big for the devices of one')
  ahead: bool = field(False, 'sample the next rollout on half of the devices while the other half updates')
  mesh: Shape = field(Shape(), 'axes of the devices that update')
  reward_seconds: float = field(10.0, 'longest time for one reward; a sample whose reward fails or takes longer gets 0')
  eval_every: int = field(20, 'rollouts between looks at held-out questions')
  save_every: int = field(25, 'steps between checkpoints')

  def __post_init__(self):
    at_least_one(self, 'prompts', 'updates', 'accumulate', 'engine_processes', 'eval_every', 'save_every')
    if self.group < 2:
      raise ValueError(f'group={self.group}: expected 2 or more, since a sample is compared with its group')
    if self.prompts % self.updates:
      raise ValueError(f'updates={self.updates} does not divide prompts={self.prompts}')
    if not 0 < self.temperature < float('inf'):
      raise ValueError(f'temperature={self.temperature}: expected a positive number; greedy samples do not differ')
    Sampling.of(1, top_p=self.top_p, top_k=self.top_k, min_p=self.min_p)
    if not 0 < self.reward_seconds < float('inf'):
      raise ValueError(f'reward_seconds={self.reward_seconds}: expected a positive number')
    if not 0 <= self.ema < 1:
      raise ValueError(f'ema={self.ema}: expected a number from 0 to below 1')
    if self.export == 'average' and not self.ema:
      raise ValueError("export='average' needs averaged weights: expected ema above 0")
    self._check_trainable()

  def _check_trainable(self) -> None:
    try:
      re.compile(self.trainable)
    except re.error as error:
      raise ValueError(f'trainable={self.trainable!r}: not a regular expression: {error}') from error

  def draw(self, max_new: int) -> Draw:
    """How responses are sampled in training."""
    return Draw(max_new, self.temperature, self.top_p, self.top_k, self.min_p)


def at_least_one(config: Any, *names: str) -> None:
  """Raises ValueError naming the first of these fields that is below 1."""
  for name in names:
    if getattr(config, name) < 1:
      raise ValueError(f'{name}={getattr(config, name)}: expected 1 or more')


@dataclasses.dataclass(frozen=True)
class Config(Training):
  """Reinforcement learning by reward of a policy that answers at once, of text or of text and images."""

  model: str = field('tiny', 'folder of a checkpoint; or tiny or, without images, tiny-text, trained from scratch')
  task: str = field('digits', f'where queries come from: {", ".join(TASKS)}; not looked at when there is data')
  data: tuple[str, ...] = field((), "JSONL, Parquet or ArrayRecord files of queries in InternVL's format")
  heldout: tuple[str, ...] = field((), 'files of held-out queries; needed with data')
  reward: rewards.Name | None = field(None, "of a response; None: the task's own, or boxed_and_format with data")
  prompt_length: int = field(
    0, 'tokens of a prompt, padded to as many, longer ones left out; 0: a bucket, and no limit'
  )
  tiles: int = field(0, 'image tiles of a prompt, padded to as many; 0: a bucket of the most in a rollout')
  warmup: Supervision = field(Supervision(), 'supervised start')
  offline: Offline = field(Offline(), 'the offline phase of a cascade')
  svs: Synthesis = field(Synthesis(), 'variants of half-solved problems, written and solved by the policy (SvS)')
  sr1: Sr1 = field(Sr1(), 'descriptions rewarded by answers from them alone (Vision-SR1)')
  tree: Branching = field(Branching(), 'responses that share segments, trained on as packed trees (TreePO)')
  steps: int = field(160, 'rollouts')
  tokens: int = field(
    0, 'sampled tokens after which training ends, if it has not after all rollouts; 0: no limit', low=0
  )
  max_new: int = field(4, 'longest response in tokens, the stop token included')
  eval_queries: int = field(1024, 'held-out questions before and after')
  eval_samples: int = field(0, 'further responses drawn to each of them, for pass@k')

  def __post_init__(self):
    super().__post_init__()
    if self.task not in TASKS:
      raise ValueError(f'task={self.task!r}: expected one of {", ".join(TASKS)}')
    at_least_one(self, 'steps', 'max_new', 'eval_queries')
    if bool(self.data) != bool(self.heldout):
      raise ValueError(f'data={self.data}, heldout={self.heldout}: expected both or neither')
    if min(self.prompt_length, self.tiles, self.eval_samples) < 0:
      sizes = f'prompt_length={self.prompt_length}, tiles={self.tiles}, eval_samples={self.eval_samples}'
      raise ValueError(f'{sizes}: expected 0 or more')
    if self.prompts // self.updates % self.accumulate:
      share = self.prompts // self.updates
      raise ValueError(f'accumulate={self.accumulate} does not divide the {share} prompts of an update')
    if self.svs.variants and self.sr1.generation != 'off':
      raise ValueError(
        f'svs.variants={self.svs.variants}, sr1.generation={self.sr1.generation!r}: expected one of the two recipes'
      )
    if self.svs.variants and self.dynamic:
      raise ValueError(
        f'svs.variants={self.svs.variants}, dynamic=True: expected one of them; SvS drops flat groups itself'
      )
    if self.tree.segment and (self.svs.variants or self.sr1.generation != 'off'):
      others = f'svs.variants={self.svs.variants}, sr1.generation={self.sr1.generation!r}'
      raise ValueError(f'tree.segment={self.tree.segment} with {others}: expected 0 and off')
    objective.check(self.rule, self.advantage, length=self.length, max_new=self.max_new)

  @property
  def layout(self) -> Layout:
    """How trajectories are laid out for an update."""
    if self.tree.segment:
      return 'trees'
    return 'shared'


# The online stage of InternVL3.5: the scripts of OpenGVLab/InternVL, `shell/internvl3.5`, one epoch of MMPR-Tiny's 70K
# queries, and the bounds of GSPO. 12 tiles and a thumbnail fit; 16 are shared out evenly. The scripts freeze the vision
# tower, which they call a workaround; the paper does not say.
GSPO = Config(
  warmup=Supervision(steps=0),
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
  warmup=Supervision(steps=300),
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
        limits=Limits(prompt=48, response=48, tiles=3),
        optim=Optim('muon', lr=2e-4, schedule='constant', warmup_steps=5),
      ),
    ),
  ),
  # SvS from scratch on sums of 2 to 7 digits; a short prompt for variants, since the policy reads bytes.
  'svs': Config(
    model='tiny-text',
    task='sums',
    warmup=Supervision(steps=300, batch=64, variants=True),
    steps=30,
    prompts=32,
    group=8,
    max_new=48,
    svs=Synthesis(variants=8, template='Vary {response}'),
    optim=Optim('muon', lr=5e-4, schedule='constant', warmup_steps=2),
    eval_queries=256,
    eval_samples=16,
    eval_every=10,
    engine=EngineSize(slots=256, pages=2048, segment=8),
  ),
  # SmolLM2-135M-Instruct, as `make demo-real` converts it, on sums that it half knows: reward alone, no demonstrations.
  'smollm2': Config(
    model='runs/smollm2/base',
    task='pairs',
    warmup=Supervision(steps=0),
    steps=30,
    prompts=8,
    group=8,
    max_new=16,
    optim=Optim('adamw', lr=2e-5, schedule='constant', warmup_steps=5),
    eval_queries=400,
    eval_every=15,
    engine=EngineSize(slots=64, pages=640, segment=8),
  ),
  # Vision-SR1 from scratch: two handwritten digits, and a question that often tells the answer. The prompts are short,
  # since the policy reads bytes.
  'vision_sr1': Config(
    task='shortcut',
    warmup=Supervision(steps=160, batch=64),
    steps=40,
    prompts=32,
    group=8,
    max_new=64,
    sr1=Sr1('c2', first='Describe.', second='{description} {question}'),
    optim=Optim('muon', lr=5e-4, schedule='constant', warmup_steps=2),
    eval_queries=256,
    eval_every=10,
    engine=EngineSize(slots=256, pages=3072, segment=8),
  ),
  # TreePO from scratch on sums of 2 to 7 digits: segments of 4 bytes, so that responses branch.
  'treepo': Config(
    model='tiny-text',
    task='sums',
    warmup=Supervision(steps=300, batch=64),
    steps=30,
    prompts=32,
    group=16,
    max_new=48,
    tree=Branching(segment=4),
    advantage='treepo',
    rule=RULES['treepo'],
    optim=Optim('muon', lr=5e-4, schedule='constant', warmup_steps=2),
    eval_queries=256,
    eval_samples=16,
    eval_every=10,
    engine=EngineSize(slots=256, pages=4096, page_size=4, segment=4),
  ),
  # The paper's run: 7B, W = 16, 14 segments of 512 tokens, 16 updates of 32 prompts.
  '7b_treepo': Config(
    model='qwen2.5-7b',
    warmup=Supervision(steps=0),
    prompts=512,
    group=16,
    updates=16,
    dynamic=True,
    prompt_length=1024,
    max_new=7168,
    tree=Branching(segment=512),
    length=Length(buffer=512),
    dtype='bfloat16',
    remat='full',
    advantage='treepo',
    rule=RULES['treepo'],
    optim=Optim(lr=1e-6, schedule='constant', warmup_steps=10),
    engine=EngineSize(slots=256, pages=16384, page_size=128, segment=32),
    mesh=Shape(data=32),
  ),
  # The largest run of SvS: 32B, updates of 256 groups of any kind, of 8 answers each. For 256 devices: 128 of the
  # groups at a time, the answers to each on 2 devices.
  '32b_svs': Config(
    model='qwen2.5-32b',
    warmup=Supervision(steps=0),
    steps=300,
    prompts=256,
    group=8,
    prompt_length=4096,
    max_new=8192,
    svs=Synthesis(variants=8),
    accumulate=2,
    dtype='bfloat16',
    remat='full',
    optim=Optim(lr=1e-6, schedule='constant', weight_decay=0.01),
    engine=EngineSize(slots=256, pages=16384, page_size=128, segment=32),
    mesh=Shape(data=128, expert=2),
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
    warmup=Supervision(steps=4, batch=8, optim=Optim(schedule='constant')),
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
