"""What all phases of a run share: model, processor, streams of queries, the sampler."""

import dataclasses
from collections.abc import Iterable

import jax

import internvl
from core.sample import bucket
from internvl import Processor
from internvl.processor_config import ProcessorConfig
from rl import policy
from rl.configs import Config
from rl.evaluate import Result, evaluate
from rl.sampler import Sampler
from rl.tasks import TASKS, Query

WARMUP_SEED, ROLLOUT_SEED, HELDOUT_SEED, OFFLINE_SEED = 1, 2, 3, 4  # separate streams of queries


@dataclasses.dataclass(frozen=True)
class Setup:
  """A run's model and data."""

  config: Config
  model: internvl.Config
  processor: Processor
  length: int  # prompt slots

  def queries(self, split: str, stream: int, numbers: Iterable[int]) -> list[Query]:
    """Queries of these numbers, of one of the endless streams."""
    draw = TASKS[self.config.task].query
    seed = stream if split == 'heldout' else self.config.seed * 16 + stream  # one held-out set for all seeds
    return [draw(split, seed, i) for i in numbers]

  def inputs(self, queries: Iterable[Query]) -> list:
    """The queries as prompts."""
    return [self.processor(q.messages, q.images) for q in queries]

  def collate(self, inputs) -> policy.Prompts:
    """Prompts as a batch."""
    return policy.collate(inputs, pad_id=self.processor.pad_id, length=self.length)

  def sampler(self, weights, home: jax.sharding.Mesh) -> Sampler:
    """The engine, with these weights, on the mesh `home`."""
    return Sampler(weights, self.model, self.processor, self.config.engine, home)

  def evaluate(self, sampler: Sampler, n: int, samples: int = 0) -> Result:
    """Answers to the first n held-out questions."""
    return evaluate(sampler, self.processor, self.queries('heldout', HELDOUT_SEED, range(n)), samples=samples,
                    max_new=self.config.max_new, right=TASKS[self.config.task].right)


def setup(config: Config) -> Setup:
  """Model and processor of a configuration. Raises ValueError when the model is unknown or not trained from bytes."""
  if config.model != 'tiny':
    raise ValueError(f"model={config.model!r}: expected 'tiny'")
  model = internvl.CONFIGS[config.model]
  processor = Processor.over_bytes(ProcessorConfig(
      image_size=model.vision.image_size, tokens_per_tile=model.tokens_per_tile, max_tiles=3, thumbnail=False,
      template='internvl_hf', system='', max_length=model.language.max_length))
  model = dataclasses.replace(model, image_token=processor.image_id)
  draft = Setup(config, model, processor, 0)
  longest = max(len(x.tokens) for x in draft.inputs(draft.queries('train', WARMUP_SEED, range(256))))
  return dataclasses.replace(draft, length=bucket(longest))
