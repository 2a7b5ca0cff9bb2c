"""What all phases of a run share: model, processor, streams of queries, the sampler."""

import dataclasses
import functools
from collections.abc import Iterable

import jax

import internvl
from core import mesh
from core.padding import bucket
from core.training.steps import partition
from internvl import Processor
from internvl.inputs.processor_config import ProcessorConfig
from rl import policy
from rl.configs import Config
from rl.evaluate import Result, evaluate
from rl.sampler import Sampler
from rl.tasks import TASKS, Query, Task, from_files

WARMUP_SEED, ROLLOUT_SEED, HELDOUT_SEED = 1, 2, 3  # separate streams of queries


@dataclasses.dataclass(frozen=True)
class Setup:
  """A run's model and data."""

  config: Config
  model: internvl.Config
  processor: Processor
  task: Task
  length: int  # prompt slots

  def queries(self, split: str, stream: int, numbers: Iterable[int]) -> list[Query]:
    """Queries of these numbers, of one of the endless streams."""
    seed = stream if split == 'heldout' else self.config.seed * 16 + stream  # one held-out set for all seeds
    return [self.task.query(split, seed, i) for i in numbers]

  def inputs(self, queries: Iterable[Query]) -> list:
    """The queries as prompts."""
    return [self.processor(q.messages, q.images) for q in queries]

  def collate(self, inputs) -> policy.Prompts:
    """Prompts as a batch."""
    return policy.collate(inputs, pad_id=self.processor.pad_id, length=self.length, tiles=self.config.tiles or None)

  def sampler(self, weights, home: mesh.Share) -> Sampler:
    """The engine, with these weights, on the devices of `home`."""
    return Sampler(weights, self.model, self.processor, self.config.engine, home, self.config.dtype)

  def evaluate(self, sampler: Sampler, n: int, samples: int = 0) -> Result:
    """Answers to the first n held-out questions, or to all if there are fewer."""
    queries = self.queries('heldout', HELDOUT_SEED, range(min(n, self.task.heldout)))
    return evaluate(
      sampler, self.processor, queries, samples=samples, max_new=self.config.max_new, right=self.task.right
    )


def setup(config: Config, place: jax.sharding.Mesh) -> tuple[Setup, internvl.Params]:
  """(the setup, the first weights on the mesh `place`, float32).

  Raises ValueError when the model is no folder, or a size that is not trained from bytes, or has nothing `trainable`.
  """
  if config.model == 'tiny':
    model = internvl.CONFIGS['tiny']
    processor = Processor.over_bytes(
      ProcessorConfig(
        image_size=model.vision.image_size,
        tokens_per_tile=model.tokens_per_tile,
        max_tiles=3,
        thumbnail=False,
        template='internvl_hf',
        system='',
        max_length=model.language.max_length,
      )
    )
    model = dataclasses.replace(model, image_token=processor.image_id)
    make = functools.partial(internvl.init, config=model)
    weights = jax.jit(make, out_shardings=mesh.shardings(internvl.spec(model), place))(jax.random.key(config.seed))
  elif config.model in internvl.CONFIGS:
    raise ValueError(f"model={config.model!r}: expected 'tiny' or the folder of a checkpoint")
  else:
    processor = Processor.load(config.model)
    model, weights = internvl.load(config.model, mesh=place, dtype='float32')
  partition(internvl.spec(model), config.trainable or '.*')
  task = from_files(config.data, config.heldout, config.reward) if config.data else TASKS[config.task]
  draft = Setup(config, model, processor, task, config.prompt_length)
  if config.prompt_length:
    return draft, weights
  longest = max(len(x.tokens) for x in draft.inputs(draft.queries('train', WARMUP_SEED, range(256))))
  return dataclasses.replace(draft, length=bucket(longest)), weights
