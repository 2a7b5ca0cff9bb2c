"""Cascade RL (InternVL3.5, arXiv 2508.18265): offline MPO on preference pairs, then online GSPO on hard queries.

Here is what comes before the online stage: pairs out of a policy's samples, the MPO phase, and the choice of queries.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import logging

import internvl
from core import data, mesh
from core.launch import field
from core.run import Run, loop
from core.train import Loss, Optim, init_state, make_step, optimizer
from internvl import Processor
from rl import dynamic, losses, policy, preference
from rl.losses import Mpo, RewardShift
from rl.preference import Pair, Scored, Sizes
from rl.rewards import boxed, think_format
from rl.rewards.extract import boxed_answer
from rl.sampler import Sampler
from rl.tasks import Query


@dataclasses.dataclass(frozen=True)
class MpoPhase:
  """The offline phase; defaults are those of the InternVL3.5 release, for one epoch of MMPR-v1.2 (200K pairs)."""

  steps: int = field(800, 'updates')
  batch: int = field(256, 'pairs an update')
  accumulate: int = field(1, 'micro-batches an update; each moves the reward shift')
  seed: int = field(0, 'of the order of pairs')
  sizes: Sizes = field(Sizes(), 'room of a pair')
  thinking: bool = field(False, "prompts carry the layout's system text for reasoning")
  loss: Mpo = field(Mpo(), 'weights of the three terms')
  optim: Optim = field(Optim(lr=2e-7, schedule='cosine', warmup_steps=24, weight_decay=0.05), 'optimiser')
  reference_batch: int = field(32, 'pairs at once while the reference is computed')
  save_every: int = field(100, 'steps between checkpoints')

  def __post_init__(self):
    for name in ('steps', 'batch', 'accumulate', 'reference_batch', 'save_every'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)}: expected 1 or more')
    if self.batch % self.accumulate:
      raise ValueError(f'accumulate={self.accumulate} does not divide batch={self.batch}')


@dataclasses.dataclass(frozen=True)
class Offline:
  """What stands before the online phase: pairs out of the policy's own samples, MPO on them, the choice of queries."""

  queries: int = field(0, 'queries sampled for pairs, and again after MPO for their accuracy; 0: no offline phase')
  samples: int = field(16, 'samples of each')
  temperature: float = field(1.0, 'of that sampling')
  most: int = field(15, 'pairs of a query, at most')
  low: float = field(0.2, 'least accuracy of a query that goes on to the online phase')
  high: float = field(0.8, 'highest accuracy of such a query')
  phase: MpoPhase = field(MpoPhase(), 'the MPO run')

  def __post_init__(self):
    if self.queries < 0 or self.samples < 2 or self.most < 1:
      raise ValueError(f'queries={self.queries}, samples={self.samples}, most={self.most}: expected 0, 2, 1 or more')
    if not 0 <= self.low <= self.high <= 1:
      raise ValueError(f'low={self.low}, high={self.high}: expected 0 <= low <= high <= 1')


@dataclasses.dataclass(frozen=True)
class Sampled:
  """Samples of a query, for pairs and for its measured accuracy."""

  query: Query
  samples: list[Scored]

  @property
  def right(self) -> int:
    """How many are right."""
    return sum(s.right for s in self.samples)


def score(query: Query, texts: Sequence[str], right: Callable[[str, str], float] = boxed) -> Sampled:
  """Sampled texts with their verdicts; right(text, answer) says 1 for a right one."""
  return Sampled(query, [Scored(t, right(t, query.answer) == 1, think_format(t) == 1, boxed_answer(t)) for t in texts])


def sample(sampler: Sampler, processor: Processor, queries: Sequence[Query], *, samples: int, max_new: int,
           temperature: float = 0.7, top_k: int = 50, seed: int = 0,
           right: Callable[[str, str], float] = boxed) -> list[Sampled]:
  """`samples` answers to each query (MMPR: 32, temperature 0.7, top-k 50)."""
  answers = sampler([processor(q.messages, q.images) for q in queries], max_new=max_new, samples=samples,
                    temperature=temperature, top_k=top_k, seeds=[seed + n * samples for n in range(len(queries))])
  texts = policy.texts(processor, answers)
  return [score(q, texts[i * samples:(i + 1) * samples], right) for i, q in enumerate(queries)]


def pairs_of(sampled: Sequence[Sampled], *, most: int = 15, seed: int = 0) -> list[Pair]:
  """Up to `most` correctness pairs of each query."""
  return [pair for n, s in enumerate(sampled)
          for pair in preference.correctness_pairs(s.query.messages, s.query.images, s.query.answer, s.samples,
                                                   most=most, seed=seed + n)]


def online_queries(sampled: Sequence[Sampled], low: float = 0.2, high: float = 0.8) -> list[int]:
  """Which queries' measured accuracies lie in the band: neither hopeless nor solved (MMPR-Tiny)."""
  return [n for n, s in enumerate(sampled) if dynamic.band(np.array(s.right), len(s.samples), low, high)]


def mpo(phase: MpoPhase, config: internvl.Config, params: internvl.Params, processor: Processor,
        pairs: Sequence[Pair], workdir: pathlib.Path, *, place: jax.sharding.Mesh | None = None) -> internvl.Params:
  """Trains all of `params` on the pairs, with the start as frozen reference; goes on where it was stopped.

  params are spread over the mesh `place` (all devices by default) and given up to the first step. The reference's
  log-probabilities are computed once and kept in the workdir, so it is never held beside the policy.
  """
  place = mesh.make() if place is None else place
  params = jax.device_put(params, mesh.shardings(internvl.spec(config), place))
  examples = preference.Examples(pairs, processor, phase.sizes, thinking=phase.thinking)
  tx = optimizer(phase.optim, phase.steps, internvl.spec(config))

  def loss(params, batch: preference.Batch, key, shift: RewardShift) -> Loss:
    logp, _ = policy.log_probs(params, config, batch.prompts, batch.answers)
    return losses.mpo(logp, batch.answers.mask, batch.reference, shift, config=phase.loss,
                      token_weight=batch.token_weight)

  with jax.set_mesh(place), Run(workdir, phase, every=phase.save_every,
                                show=('preference', 'preferred', 'shift')) as run:
    source = _referenced(phase, config, params, examples, run.workdir / 'reference.npz')
    stream = data.batches(data.mix({'pairs': (source, 1.0)}, seed=phase.seed).to_iter_dataset(),
                          phase.batch // jax.process_count())
    prepare = jax.jit(preference.batch)
    state = init_state(params, tx, RewardShift.new())
    step = make_step(loss, tx, accumulate=phase.accumulate, places=jax.tree.map(lambda x: x.sharding, state))

    def advance(state, i):
      rows = mesh.to_global(next(stream), place)
      return step(state, None, prepare(rows), jax.random.key(phase.seed))

    return loop(run, state, advance, phase.steps, host={'pairs': stream}).params


def _referenced(phase, config, params, examples, path: pathlib.Path) -> preference.Referenced:
  """The pairs with their reference, from `path` if it is there. Every process must see the file."""
  if not path.exists():
    numbers, sums = preference.reference(params, config, examples, at_once=phase.reference_batch)
    if jax.process_index() == 0:
      draft = path.with_suffix('.part.npz')
      np.savez(draft, numbers=numbers, sums=sums, pairs=len(examples))
      draft.replace(path)
  mesh.together('reference')
  saved = np.load(path)
  if saved['pairs'] != len(examples):
    raise ValueError(f'{path} is of {saved["pairs"]} pairs: there are {len(examples)} now')
  logging.info('%d of %d pairs fit', len(saved['numbers']), len(examples))
  return preference.Referenced(examples, saved['numbers'], saved['sums'])
