"""Named configurations of `python -m rl.train` that train a text-to-image flow model."""

import dataclasses
from typing import Literal

from core.engine import EngineSize
from core.launch.fields import field, fixed
from core.training.optim import Optim
from rl.configs import Training, at_least_one
from rl.flow.policy.options import PathOptions
from rl.flow.pretrain import Pretraining
from rl.losses import RULES, Rule
from rl.rewards import Length
from rl.rewards.comparisons import pairs_of


@dataclasses.dataclass(frozen=True)
class Preference:
  """How the images of a group are compared."""

  opponents: int = field(0, 'comparisons of each image; 0: with all others of its group')
  order: Literal['fixed', 'alternate', 'both'] = field(
    'alternate', 'which image of a pair is shown first: always the earlier one, in turn, or each once in two requests'
  )
  decimals: int | None = field(
    None, 'win rates are rounded to as many; the released trainer has 3; none: not rounded', low=0
  )
  patience: int = field(256, 'equal verdicts in a row after which the run stops; 0: any number')
  zone: float = field(0.1, 'scores that differ by less are a tie, of a judge that compares scores')

  def __post_init__(self):
    if min(self.opponents, self.patience) < 0 or not 0 <= self.zone < float('inf'):
      given = f'opponents={self.opponents}, patience={self.patience}, zone={self.zone}'
      raise ValueError(f'{given}: expected 0 or more')


@dataclasses.dataclass(frozen=True)
class FlowTraining(Training):
  """What every run of Pref-GRPO (arXiv 2508.20751) has."""

  prompts: int = field(8, 'prompts a rollout')
  group: int = field(8, 'images of each prompt')
  updates: int = field(2, 'optimiser updates of a rollout, each on its own share of the prompts')
  rule: Rule = field(RULES['pref_grpo'], 'clipping and averaging of the loss', choices=RULES)
  optim: Optim = field(Optim(lr=3e-4, schedule='constant', weight_decay=1e-4), 'optimiser')
  paths: PathOptions = field(PathOptions(), 'how images are sampled')
  compare: Preference = field(Preference(), 'comparisons')
  steps: int = field(100, 'rollouts')
  eval_queries: int = field(240, 'held-out images before and after')
  # Of responses in tokens; an image has a path, whose noise is `paths.noise`.
  temperature: float = fixed(1.0)
  top_p: float = fixed(1.0)
  top_k: int = fixed(0)
  min_p: float = fixed(0.0)
  length: Length = fixed(Length())
  engine: EngineSize = fixed(EngineSize())

  def __post_init__(self):
    super().__post_init__()
    at_least_one(self, 'steps', 'eval_queries')
    pairs_of(self.group, self.compare.opponents or None)  # refuses opponents that no group has, before long work
    if self.rule.kl.in_reward:
      raise ValueError("rule.kl.where='reward': expected 'loss', where the divergence of a flow is exact")


@dataclasses.dataclass(frozen=True)
class FlowConfig(FlowTraining):
  """A small model of scans of digits, trained by comparisons, scores, or both."""

  model: str = field('digits', 'digits: from scratch; or the folder of a model that such a run has written')
  preference: float = field(1.0, 'weight of the win rate among the images of a group; 0: none are compared')
  score: float = field(0.0, 'weight of the score of each image by itself; 0: none')
  score_noise: float = field(0.02, 'standard deviation of the noise in a score, before its weight')
  pretraining: Pretraining = field(Pretraining(), 'flow matching on real scans, before reinforcement learning')

  def __post_init__(self):
    super().__post_init__()
    if min(self.preference, self.score, self.score_noise) < 0 or not self.preference + self.score:
      given = f'preference={self.preference}, score={self.score}, score_noise={self.score_noise}'
      raise ValueError(f'{given}: expected 0 or more, and a weight above 0')


@dataclasses.dataclass(frozen=True)
class JudgeServer:
  """A chat-completions server whose model compares two images."""

  url: str = field('', 'address with the version, such as http://127.0.0.1:8000/v1')
  name: str = field('', 'model; by default the first that the server lists')
  key_env: str = field('OPENAI_API_KEY', 'environment variable with the key')
  workers: int = field(8, 'comparisons at a time', low=1)


@dataclasses.dataclass(frozen=True)
class PublishedConfig(FlowTraining):
  """A published model, FLUX.1, SD3 or SD3.5, trained by comparisons alone."""

  model: str = field('', 'folder as diffusers publishes it')
  data: tuple[str, ...] = field((), 'JSONL files of {"prompt"}')
  heldout: tuple[str, ...] = field((), 'JSONL files of {"prompt"}, none of which is in the data: what is looked at')
  height: int = field(512, 'pixels of an image')
  width: int = field(512, 'pixels of an image')
  tokens: int = field(0, 'text tokens that T5 reads; 0: as many as the published pipelines', low=0)
  rows: int = field(8, 'images sampled at a time', low=1)
  judge: JudgeServer = field(JudgeServer(), 'what compares images')
  optim: Optim = field(Optim(lr=1e-5, schedule='constant', weight_decay=1e-4), 'optimiser')
  remat: Literal['none', 'dots', 'full'] = field('full', 'what the backward pass recomputes')
  dtype: Literal['float32', 'bfloat16'] = field('bfloat16', 'of arithmetic and sampling; trained weights are float32')


POINTWISE = FlowConfig(preference=0.0, score=1.0)
CONFIGS = {
  'pref_grpo': FlowConfig(),
  'pref_grpo_folder': PublishedConfig(eval_queries=32),
  'flow_grpo': POINTWISE,  # a score of each image instead of comparisons
  # Ratios without bias and whitening over the batch, as the released trainer of 2026 has them.
  'pref_grpo_guard': FlowConfig(paths=PathOptions(normalised=True), advantage='gdpo', preference=0.4, score=0.6),
  # Seconds instead of minutes: for tests and for trying a flag.
  'flow_smoke': FlowConfig(
    prompts=2,
    group=4,
    updates=1,
    steps=2,
    eval_queries=4,
    eval_every=1,
    save_every=1,
    paths=PathOptions(steps=6),
    pretraining=Pretraining(steps=2, batch=4, optim=Optim(schedule='constant')),
  ),
}
