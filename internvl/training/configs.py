"""What supervised fine-tuning can be asked for, and the published recipes.

The recipes are those of OpenGVLab/InternVL, `shell/internvl3.5` (stage 2), as the paper's §3.2 describes the stage.
"""

import dataclasses
import math
from typing import Literal

from core.launch.fields import field
from core.mesh import Shape
from core.training.optim import Optim
from internvl.configs import CONFIGS as SIZES
from internvl.data.dataset import BadRows


@dataclasses.dataclass(frozen=True)
class Lora:
  """Low-rank adapters: with a rank above 0 only they are trained."""

  rank: int = field(0, 'inner dimension of the adapters; 0 = none')
  alpha: float = field(16.0, 'the correction is scaled by alpha / rank')
  pattern: str = field(r'language\.blocks\.(attn\.[qkvo]|mlp\.(gate|up|down))', 'regex: the weights that get one')


@dataclasses.dataclass(frozen=True)
class Vico:
  """How ViCO labels tiles for the router."""

  window: int = field(4096, 'loss ratios that the percentile is taken over: the most recent ones')
  percentile: float = field(50.0, 'percent of tiles that count as compressible')
  epsilon: float = field(1e-6, 'added to the denominator of a loss ratio')

  def __post_init__(self):
    if self.window < 1024:
      raise ValueError(f'vico.window={self.window}: expected 1024 or more')
    if not 0 < self.percentile < 100:
      raise ValueError(f'vico.percentile={self.percentile}: expected a number between 0 and 100')
    if not 0 <= self.epsilon < math.inf:
      raise ValueError(f'vico.epsilon={self.epsilon}: expected zero or more')


@dataclasses.dataclass(frozen=True)
class Config:
  """Training on packed rows: supervised fine-tuning and the two stages of ViCO."""

  model: str = field('tiny', f'folder of a checkpoint; or a size to train from scratch: {", ".join(SIZES)}')
  objective: Literal['next_token', 'consistency', 'routing'] = field(
    'next_token',
    'supervised fine-tuning; consistency of a Flash model with its reference (ViCO, stage 1); '
    'or training of its router alone (stage 2)',
  )
  reference: str = field(
    '', 'folder of the model that ViCO compares with, always at all image tokens; none = as the run starts, for stage 1'
  )
  vico: Vico = Vico()
  tokenizer: str = field('', 'folder with the tokenizer for a size trained from scratch; tiny reads bytes')
  data: tuple[str, ...] = field(
    (), 'JSONL, Parquet or ArrayRecord files, or a meta.json that names some; none = the task, made on the spot'
  )
  task: Literal['digits', 'panels'] = field(
    'digits', 'what is made without data: two digits and a question; or panels of which some need a fine look'
  )
  weights: tuple[float, ...] = field((), 'share of each file in the mixture; none = equal, or as a meta.json says')
  heldout: tuple[str, ...] = field((), 'files whose answers are compared with those of the trained model')
  heldout_rows: int = field(256, 'how many rows of each, at most; 0 = no evaluation')
  answer_tokens: int = field(64, 'longest answer in the evaluation')
  batch: int = field(512, 'packed rows a step, over all processes')
  length: int = field(32768, 'tokens a row')
  tiles: int = field(96, 'image tiles a row, at most')
  open_rows: int = field(20, 'rows open for packing at a time, in each row of the batch')
  too_long: Literal['truncate', 'refuse'] = field(
    'truncate', 'a sample longer than a row ends early, before the image it would cut; or is an error'
  )
  bad_rows: BadRows = field(
    'refuse', 'a row that cannot be read ends the run; or is skipped, logged, and counted in the metric bad_rows'
  )
  averaging: Literal['token', 'sample', 'square'] = field(
    'square', 'weight of a token among the x its sample teaches: 1, 1/x or 1/sqrt(x)'
  )
  augment: bool = field(False, 'recompress every tile as JPEG at a random quality')
  balance: float = field(
    0.0, 'coefficient of the load-balancing loss of a mixture of experts; Qwen3-MoE was published with 0.001'
  )
  drop_path: float = field(0.1, 'stochastic depth of the last vision layer, falling linearly to 0 at the first')
  trainable: str = field('', r'regex of the weights to train, such as projector\..*; none = all, or the adapters')
  lora: Lora = Lora()
  optim: Optim = Optim()
  steps: int = field(8000, 'updates')
  accumulate: int = field(1, 'micro-batches a step')
  remat: Literal['none', 'dots', 'full'] = field('full', 'what the backward pass recomputes')
  dtype: Literal['bfloat16', 'float32'] = field('bfloat16', 'of arithmetic, frozen weights and the exported files')
  mesh: Shape = Shape()
  seed: int = field(0, 'of initial weights, order of the data, augmentation and stochastic depth')
  save_every: int = field(500, 'steps between checkpoints')
  workers: int = field(0, 'processes that read and encode; 0 = a thread')

  def __post_init__(self):
    for name, least in {
      'batch': 1,
      'length': 2,
      'tiles': 1,
      'open_rows': 1,
      'steps': 1,
      'accumulate': 1,
      'save_every': 1,
      'heldout_rows': 0,
      'answer_tokens': 1,
      'workers': 0,
    }.items():
      if getattr(self, name) < least:
        raise ValueError(f'{name}={getattr(self, name)}: expected {least} or more')
    if self.batch % self.accumulate:
      raise ValueError(f'batch={self.batch} is not a multiple of accumulate={self.accumulate}')
    if self.weights and len(self.weights) != len(self.data):
      raise ValueError(f'weights has {len(self.weights)} numbers for {len(self.data)} data files')
    if self.weights and any(path.endswith('.json') for path in self.data):
      raise ValueError(f'weights={self.weights}: a meta.json among data={self.data} says them itself')
    if not 0 <= self.balance < math.inf:
      raise ValueError(f'balance={self.balance}: expected zero or more')
    if not 0 <= self.drop_path < 1:
      raise ValueError(f'drop_path={self.drop_path}: expected a number in [0, 1)')
    if self.lora.rank < 0:
      raise ValueError(f'lora.rank={self.lora.rank}: expected 0 or more')
    if self.objective == 'routing':
      self._check_routing()

  def _check_routing(self):
    if self.trainable or self.lora.rank:
      raise ValueError(
        f'trainable={self.trainable!r}, lora.rank={self.lora.rank} with objective=routing, which trains the router '
        'alone: expected neither'
      )
    tiles = self.batch * self.tiles // self.accumulate
    if self.vico.window < tiles:
      raise ValueError(
        f'vico.window={self.vico.window}: expected at least the {tiles} tiles of a micro-batch, '
        'batch * tiles / accumulate'
      )


SFT = Config(optim=Optim(lr=8e-5, b2=0.999, weight_decay=0.05, warmup_steps=240))
# The paper gives neither rates nor steps of ViCO: these are ours. 'sample' is the mean over positions of its equation.
CONSISTENCY = dataclasses.replace(
  SFT, objective='consistency', averaging='sample', optim=dataclasses.replace(SFT.optim, lr=2e-5)
)
ROUTING = Config(
  objective='routing',
  averaging='sample',
  accumulate=16,
  steps=2000,
  optim=Optim(lr=1e-4, warmup_steps=100),
)

TINY = Config(
  batch=16,
  length=288,
  tiles=12,
  open_rows=2,
  drop_path=0.0,
  steps=300,
  remat='none',
  dtype='float32',
  answer_tokens=4,
  save_every=100,
  optim=Optim('muon', lr=5e-3, warmup_steps=20, weight_decay=0.01),
)
# Two samples a row: attention is computed over whole rows.
PANELS = dataclasses.replace(
  TINY,
  model='micro',
  task='panels',
  batch=16,
  length=144,
  tiles=8,
  steps=500,
  answer_tokens=24,
  optim=Optim('adamw', lr=4e-3, warmup_steps=20, weight_decay=0.01),
)

CONFIGS = {
  # Learns the digits task from scratch: three questions in four right after four CPU minutes.
  'tiny': TINY,
  '8b_sft': dataclasses.replace(SFT, model='8B'),
  # For 1024 devices: data=128 divides the vision tower's 3200 channels, 512 would not; seq=2 splits the rows.
  '241b_sft': dataclasses.replace(SFT, model='241B-A28B', mesh=Shape(expert=4, seq=2)),
  # The two stages of ViCO. They start from a folder: config.model, and for the second stage config.reference too.
  'vico_consistency': dataclasses.replace(CONSISTENCY, model='8B-Flash'),
  'vico_routing': dataclasses.replace(ROUTING, model='8B-Flash'),
  # A base model for ViCO, from scratch, and both stages on it; see docs/flash.md.
  'panels': PANELS,
  'panels_consistency': dataclasses.replace(
    PANELS,
    objective='consistency',
    averaging='sample',
    steps=600,
    optim=Optim('adamw', lr=2e-3, warmup_steps=10, weight_decay=0.01),
  ),
  'panels_routing': dataclasses.replace(
    PANELS,
    objective='routing',
    averaging='sample',
    steps=250,
    vico=Vico(window=1024, percentile=70.0),
    optim=Optim('adamw', lr=2e-3, warmup_steps=10),
  ),
}
