"""Named configurations of `python -m agents.train`."""

import dataclasses
from typing import Literal

from agents.rollout.grade import REWARDS
from agents.rollout.roc import Mode
from agents.rollout.trajectory import Bounds
from core.engine import EngineSize
from core.launch.fields import field, fixed
from core.training.optim import Optim
from rl.configs import Supervision, Training, at_least_one
from rl.learning import objective
from rl.losses import RULES, Rule


@dataclasses.dataclass(frozen=True)
class Sft(Supervision):
  """The small supervised phase that teaches the tool format."""

  steps: int = field(0, 'updates; 0: none, the model knows the format')
  length: int = field(128, 'token slots of an example')
  calls: float = field(0.3, 'share of demonstrations that use the tool at once')
  slips: float = field(0.3, 'share whose first program has an error in it')
  guesses: float = field(0.4, 'share that answer without the tool')

  def __post_init__(self):
    super().__post_init__()
    if self.length < 2:
      raise ValueError(f'length={self.length}: expected 2 or more')
    total = self.calls + self.slips + self.guesses
    if min(self.calls, self.slips, self.guesses) < 0 or abs(total - 1) > 1e-9:
      raise ValueError(f'calls={self.calls}, slips={self.slips}, guesses={self.guesses}: expected shares that sum to 1')


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stretch of reinforcement learning with its own limits."""

  steps: int = field(0, 'rollouts; 0: the stage is left out')
  bounds: Bounds = field(Bounds(), 'how long a trajectory may get')
  hard: int = field(0, 'problems tried when the stage begins, of which it keeps those not solved in every try; 0: all')
  reset: bool = field(False, 'whether the optimiser is reset')


@dataclasses.dataclass(frozen=True)
class Config(Training):
  """GRPO-RoC: reinforcement learning of a policy that calls a Python tool (arXiv 2508.20722)."""

  model: str = field('tiny', "'tiny' from scratch, or a folder of a Qwen checkpoint")
  data: str = field('', 'JSONL of training problems, {"problem", "answer"} a line; empty: products of two numbers')
  heldout: str = field('', 'JSONL of held-out problems, when data is given')
  tool: str = field('python', 'name of the Python tool')
  tools: str = field(
    '', 'address of a running agents.serve_tools, unix:/path or http://host:port; empty: a sandbox in each process'
  )
  sft: Sft = field(Sft(), 'supervised start')
  stage1: Stage = field(Stage(), 'first stage')
  stage2: Stage = field(Stage(), 'second stage')
  stage3: Stage = field(Stage(), 'third stage')
  prompts: int = field(512, 'problems a rollout')
  group: int = field(16, 'conversations about each problem that are trained on')
  oversample: int = field(2, 'times as many are sampled')
  roc: Mode = field('sorted', 'how they are chosen; off: plain GRPO, which trains on all')
  rule: Rule = field(Rule(clip_high=0.28), 'clipping and averaging of the loss', choices=RULES)
  optim: Optim = field(Optim(lr=1e-6, schedule='constant', warmup_steps=20, weight_decay=0.01), 'optimiser')
  engine: EngineSize = field(EngineSize(128, 2560, 16, 12, 128), 'rollout engine')
  workers: int = field(2, 'tool calls that run at once, in each process')
  profile: Literal['python', 'numpy', 'sympy', 'scipy'] = field('sympy', 'what the sandbox preloads')
  reward: Literal[tuple(REWARDS)] = field(
    'exact', 'what an answer is worth; symbolic: formulas are compared by Math-Verify'
  )
  view: int = field(1000, 'characters of each output stream that the model sees')
  tool_text: Literal['default', 'released'] = field(
    'default', "form of a tool's response; released: the bytes of rStar2-Agent's released code, 256 characters in all"
  )
  lag: int | None = field(
    None, 'engine steps until a response is taken, which makes runs repeat bit for bit; none: as it comes'
  )
  eval_problems: int = field(512, 'held-out problems before and after; an eighth of them while it trains')
  eval_temperature: float = field(0.6, 'of sampling in evaluation')
  eval_every: int = field(10, 'rollouts between looks at an eighth of them')
  save_every: int = field(10, 'rollouts between checkpoints')

  # Every process runs its own tools, and `roc` leaves out the groups that are all right or all wrong.
  engine_processes: int = fixed(1)
  dynamic: bool = fixed(False)

  stages = property(lambda self: tuple(s for s in (self.stage1, self.stage2, self.stage3) if s.steps))
  steps = property(lambda self: sum(s.steps for s in self.stages))
  sampled = property(lambda self: self.group if self.roc == 'off' else self.group * self.oversample)
  bounds = property(
    lambda self: Bounds(
      max(s.bounds.response for s in self.stages), self.stages[-1].bounds.turns, calls=self.stages[-1].bounds.calls
    )
  )

  def __post_init__(self):
    super().__post_init__()
    at_least_one(self, 'oversample', 'workers', 'view')
    if not self.stages:
      raise ValueError('stage1.steps=0, stage2.steps=0, stage3.steps=0: expected a stage with steps')
    if self.group < 3:
      raise ValueError(f'group={self.group}: expected 3 or more, two of one kind and one of the other')
    if self.lag is not None and self.lag < 1:
      raise ValueError(f'lag={self.lag}: expected 1 or more, or none')
    if self.prompts * self.group % (self.updates * self.accumulate):
      raise ValueError(
        f'updates={self.updates} times accumulate={self.accumulate} does not divide the '
        f'{self.prompts * self.group} trajectories of a rollout'
      )
    if self.tool_text == 'released' and self.lag is not None:
      raise ValueError(f'lag={self.lag}: expected none with tool_text=released, which shows execution times')
    if not 0 <= self.eval_temperature < float('inf'):
      raise ValueError(f'eval_temperature={self.eval_temperature}: expected zero or a positive number')
    if bool(self.data) != bool(self.heldout):
      raise ValueError(f'data={self.data!r}, heldout={self.heldout!r}: expected both or neither')
    if self.eval_problems < 8:
      raise ValueError(f'eval_problems={self.eval_problems}: expected 8 or more')
    if self.model != 'tiny' and (not self.data or self.sft.steps):
      raise ValueError(f'model={self.model!r}: expected data, and sft.steps=0, with a published checkpoint')
    if self.ahead and any(stage.hard for stage in self.stages):
      raise ValueError('ahead=True: expected no stage with hard problems, which are tried between two rollouts')
    objective.check(self.rule, self.advantage, length=self.length, max_new=self.bounds.response)


_TINY = Config(
  sft=Sft(steps=200, batch=64, length=112, calls=0.25, slips=0.25, guesses=0.5),
  stage1=Stage(20, Bounds(112, 3)),
  stage2=Stage(10, Bounds(144, 4)),
  prompts=16,
  group=8,
  workers=2,
  profile='python',
  lag=2,
  eval_problems=256,
  optim=Optim('muon', lr=2e-3, schedule='linear', end=0.1, warmup_steps=2),
)

CONFIGS = {
  'tiny': _TINY,
  # Seconds instead of minutes: for tests and for trying a flag.
  'smoke': dataclasses.replace(
    _TINY,
    sft=Sft(steps=4, batch=8, optim=Optim(schedule='constant')),
    prompts=4,
    group=4,
    stage1=Stage(2, Bounds(64, 3)),
    stage2=Stage(1, Bounds(80, 3)),
    stage3=Stage(1, Bounds(80, 3), 4, True),
    engine=EngineSize(8, 96, 8, 8, 32),
    eval_problems=8,
    eval_every=2,
    save_every=2,
  ),
  # The published recipe (arXiv 2508.20722 §4); give it --config.model, --config.data and --config.heldout.
  'rstar2': Config(
    tool='execute_python_code_with_standard_io',
    stage1=Stage(300, Bounds(8192, 10)),
    stage2=Stage(85, Bounds(12288, 10)),
    stage3=Stage(125, Bounds(12288, 15), 42_000, True),
    dtype='bfloat16',
    remat='full',
    workers=64,
    engine=EngineSize(256, 65536, 64, 32, 512),
    eval_problems=30,
  ),
}
