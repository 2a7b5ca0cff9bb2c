"""What fine-tuning of a TTS model can be asked for, and the recipe of the public trainer.

The recipe is vibevoice-community/VibeVoice's: adapters on the language model, the whole diffusion head, 0.04 and 1.4.
"""

import dataclasses
from typing import Literal

from core.launch.fields import field
from core.mesh import Shape
from core.training.optim import Optim
from vibevoice.training import stages

PROJECTIONS = r'language\.blocks\.(attn\.[qkvo]|mlp\.(gate|up|down))'


@dataclasses.dataclass(frozen=True)
class Lora:
  """Low-rank adapters of the language model."""

  rank: int = field(8, 'inner dimension of the adapters; 0 = none, the language model is trained whole', low=0)
  alpha: float = field(32.0, 'the correction is scaled by alpha / rank')
  dropout: float = field(0.05, 'share of the input values that an adapter does not see in training', low=0.0, high=0.99)
  pattern: str = field(PROJECTIONS, 'regex: the weights that get one')


@dataclasses.dataclass(frozen=True)
class Config:
  """Fine-tuning on recordings and their scripts."""

  model: str = field('', 'folder of a TTS checkpoint with its tokenizer')
  data: tuple[str, ...] = field((), 'JSONL files of {"script", "audio", "voices"}; paths are relative to the file')
  batch: int = field(8, 'rows a step, over all processes', low=1)
  length: int = field(4096, 'tokens a row, frames of speech among them', low=8)
  frames: int = field(2048, 'frames of voices and speech a row', low=1)
  curriculum: tuple[tuple[int, int], ...] = field(
    (), 'stages ((steps, length), ...) that end with the length above; frames follow in proportion; (): one stage'
  )
  clips: int = field(0, 'clips of digits that espeak-ng speaks (extra espeak), where no data is named', low=0)
  silence: float = field(1.0, 'times 0.25 s before, 0.75 s after a recording and 0.25 s fades', low=0.0)
  cached: int = field(1024, 'recordings whose vectors are kept in memory', low=1)
  max_prompt_seconds: float = field(15.0, 'longest voice prompt cut from a recording that names no voices')
  drop_voices: float = field(0.2, 'share of rows without voice prompts', low=0.0, high=1.0)
  bare: float = field(0.0, 'share of rows of speech alone, which is what guidance compares with', low=0.0, high=1.0)
  prompt_semantic: bool = field(False, 'voice prompts carry semantic features, unlike at inference')
  semantic_of: Literal['recording', 'codec'] = field(
    'recording', 'what semantic features are of; codec: what the acoustic tokenizer makes of it, as when it speaks'
  )
  slot_labels: bool = field(False, 'cross-entropy also teaches that speech continues')
  ce_weight: float = field(0.04, 'weight of the cross-entropy', low=0.0)
  diffusion_weight: float = field(1.4, 'weight of the diffusion loss', low=0.0)
  repeats: int = field(4, 'draws of noise for each frame', low=1)
  lora: Lora = Lora()
  trainable: str = field(r'head\..*', 'regex of the weights to train in addition to adapters')
  optim: Optim = Optim(lr=2.5e-5, clip_norm=0.8)
  ema: float = field(
    0.999, 'decay of the average of head weights, which is exported; 0: the last weights', low=0.0, high=1.0
  )
  steps: int = field(1000, 'updates', low=1)
  accumulate: int = field(1, 'micro-batches a step', low=1)
  remat: Literal['none', 'dots', 'full'] = field('full', 'what the backward pass recomputes')
  dtype: Literal['bfloat16', 'float32'] = field('bfloat16', 'of arithmetic, frozen weights and the exported files')
  mesh: Shape = Shape()
  seed: int = field(0, 'of the adapters, order of the data, voice prompts and noise')
  save_every: int = field(100, 'steps between checkpoints', low=1)

  def __post_init__(self):
    if self.batch % self.accumulate:
      raise ValueError(f'batch={self.batch} is not a multiple of accumulate={self.accumulate}')
    if self.drop_voices + self.bare > 1:
      raise ValueError(f'drop_voices={self.drop_voices} and bare={self.bare}: shares of rows that add up to over 1')
    stages.check(self.curriculum, steps=self.steps, length=self.length)


TINY = Config(
  clips=600,
  batch=8,
  length=144,
  frames=96,
  silence=0.2,
  drop_voices=0.0,
  bare=0.1,
  semantic_of='codec',
  slot_labels=True,
  ce_weight=0.2,
  diffusion_weight=1.0,
  lora=Lora(rank=0),
  trainable=r'(language|head|acoustic_connector|semantic_connector)\..*',
  optim=Optim(lr=1.5e-3, warmup_steps=100, end=0.1),
  ema=0.0,
  steps=5000,
  remat='none',
  dtype='float32',
  save_every=250,
)
CONFIGS = {'finetune': Config(), 'tiny': TINY}
