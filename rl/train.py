"""Reinforcement learning of a vision-language policy by reward.

  python -m rl.train --workdir=runs/digits [--config=digits --config.steps=200 …]

A tiny InternVL learns from scratch, on real handwritten digits, to answer questions about a pair of them: a short
supervised warm-up, then GRPO on exact-match reward. The workdir ends with metrics.jsonl, TensorBoard events, the
reward curve, a report with sample answers, and a checkpoint that `python -m internvl.chat` answers from. Started
again, it goes on where it was stopped.
"""

import dataclasses
import json
import operator
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import struct

import internvl
from core import launch, params, record
from core.run import Run, loop
from core.sample import Sampling, bucket
from core.train import Loss, init_state, make_step, optimizer
from internvl import Processor
from internvl.export import export
from internvl.processor_config import ProcessorConfig
from rl import advantages, losses, policy, report
from rl.configs import CONFIGS, Config
from rl.evaluate import evaluate
from rl.tasks import TASKS

WARMUP_SEED, ROLLOUT_SEED, HELDOUT_SEED = 1, 2, 3  # separate streams of queries
GLANCE = 256  # held-out questions of a look during training


@struct.dataclass
class Rollouts:
  """A batch of the policy step: B prompts with G answers each."""

  prompts: policy.Prompts
  answers: policy.Answers
  old_logp: Any  # float32 [B, G, N]; under the weights at the start of the rollout's updates
  advantages: Any  # float32 [B, G]


@dataclasses.dataclass(frozen=True)
class Setup:
  """What both phases share."""

  config: Config
  model: internvl.Config
  processor: Processor
  length: int  # prompt slots

  def queries(self, split: str, stream: int, start: int, n: int) -> list:
    """Queries start..start+n−1 of one of the endless streams."""
    draw = TASKS[self.config.task].query
    seed = stream if split == 'heldout' else self.config.seed * 16 + stream  # one held-out set for all seeds
    return [draw(split, seed, i) for i in range(start, start + n)]

  def prompts(self, queries) -> policy.Prompts:
    """The queries as a batch."""
    inputs = [self.processor(q.messages, q.images) for q in queries]
    return policy.collate(inputs, pad_id=self.processor.pad_id, length=self.length)

  def evaluate(self, weights, n: int):
    """Greedy answers to the first n held-out questions."""
    return evaluate(weights, self.model, self.processor, self.queries('heldout', HELDOUT_SEED, 0, n),
                    max_new=self.config.max_new, length=self.length, right=TASKS[self.config.task].right)


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
  longest = max(len(processor(q.messages, q.images).tokens) for q in draft.queries('train', WARMUP_SEED, 0, 256))
  return dataclasses.replace(draft, length=bucket(longest))


def supervised_batch(s: Setup, i: int) -> tuple[policy.Prompts, policy.Answers]:
  """Batch i of the warm-up: prompts with their right answers."""
  c = s.config
  queries = s.queries('train', WARMUP_SEED, i * c.warmup.batch, c.warmup.batch)
  tokens = np.full((len(queries), c.max_new), s.processor.pad_id, np.int32)
  mask = np.zeros(tokens.shape, bool)
  for row, q in enumerate(queries):
    ids = [*s.processor.tokenizer.encode(q.solution, add_special_tokens=False), s.processor.stop_id][:c.max_new]
    tokens[row, :len(ids)], mask[row, :len(ids)] = ids, True
  one = lambda a: a[:, None]  # one answer a prompt
  return s.prompts(queries), policy.Answers(one(tokens), one(np.zeros(tokens.shape, np.float32)), one(mask))


def warm_up(s: Setup, workdir: pathlib.Path):
  """The supervised phase; returns the weights."""
  c = s.config

  def loss(weights, batch, key) -> Loss:
    logp, _ = policy.log_probs(weights, s.model, *batch)
    return Loss(*losses.aggregate(-logp, batch[1].mask, 'token'))

  tx = optimizer(c.warmup.optim, c.warmup.steps, internvl.spec(s.model))
  step = make_step(loss, tx)
  state = init_state(internvl.init(jax.random.key(c.seed), s.model), tx)

  def advance(state, i):
    return step(state, None, supervised_batch(s, i), jax.random.key(0))

  with Run(workdir / 'warmup', c, every=c.save_every) as run:
    return loop(run, state, advance, c.warmup.steps).params


def rollout(s: Setup, weights, i: int) -> tuple[Rollouts, dict]:
  """Samples of rollout i with their advantages, and its metrics."""
  c = s.config
  queries = s.queries('train', ROLLOUT_SEED, i * c.prompts, c.prompts)
  prompts = s.prompts(queries)
  rows = len(queries) * c.group
  sampling = Sampling.of(rows, temperature=c.temperature, seed=(c.seed * c.steps + i) * rows)
  answers = policy.answer(weights, s.model, prompts, max_new=c.max_new, stop=s.processor.stop_id, sampling=sampling)
  said = policy.texts(s.processor, answers)
  reward = TASKS[c.task].reward
  rewards = np.array([reward(a, queries[n // c.group].answer) for n, a in enumerate(said)], np.float32)
  groups = rewards.reshape(c.prompts, c.group)
  gain = advantages.grpo(jnp.asarray(groups))
  lengths = answers.mask.sum(-1)
  cut = (lengths == c.max_new) & (answers.tokens[..., -1] != s.processor.stop_id)
  metrics = {'reward': rewards.mean(), 'reward_flat_groups': np.mean(groups.std(-1) == 0), 'tokens': lengths.sum(),
             'answer_length': lengths.mean(), 'answer_cut': cut.mean()}
  return Rollouts(prompts, answers, answers.logp, gain), metrics


def reinforce(s: Setup, weights, workdir: pathlib.Path):
  """The reinforcement-learning phase; returns the weights."""
  c = s.config
  share = c.prompts // c.updates
  recompute = jax.jit(lambda w, p, a: policy.log_probs(w, s.model, p, a)[0])

  def loss(weights, batch: Rollouts, key) -> Loss:
    logp, entropy = policy.log_probs(weights, s.model, batch.prompts, batch.answers)
    # With one update a rollout the sampling weights are these: the ratio is exactly 1, its gradient is not 0.
    old = jax.lax.stop_gradient(logp) if c.updates == 1 else batch.old_logp
    out = losses.policy_loss(logp, old, batch.advantages[..., None], batch.answers.mask, rule=c.rule)
    gap = jnp.abs(jax.lax.stop_gradient(logp) - batch.answers.logp)
    notes = {name: losses.aggregate(v, batch.answers.mask, 'token') for name, v in
             (('entropy', entropy), ('sampler_gap', gap))}
    return out.replace(metrics=out.metrics | notes)

  tx = optimizer(c.optim, c.steps * c.updates, internvl.spec(s.model))
  step = make_step(loss, tx, accumulate=c.accumulate)

  def advance(state, i):
    batch, metrics = rollout(s, state.params, i)
    if c.updates > 1:
      batch = batch.replace(old_logp=recompute(state.params, batch.prompts, batch.answers))
    for start in range(0, c.prompts, share):
      part = jax.tree.map(operator.itemgetter(slice(start, start + share)), batch)
      state, update = step(state, None, part, jax.random.key(0))
    if (i + 1) % c.eval_every == 0:
      metrics['heldout_accuracy'] = np.float32(s.evaluate(state.params, GLANCE).accuracy)
    return state, metrics | update

  with Run(workdir, c, every=c.save_every, show=('reward', 'entropy')) as run:
    return loop(run, init_state(weights, tx), advance, c.steps).params


def main(config: Config, workdir: pathlib.Path) -> dict:
  """Trains, evaluates and reports; returns what stands in results.json."""
  s = setup(config)
  weights = warm_up(s, workdir)
  before = s.evaluate(weights, config.eval_queries)
  logging.info('held-out accuracy after the warm-up: %.1f %%', 100 * before.accuracy)
  weights = reinforce(s, weights, workdir)
  after = s.evaluate(weights, config.eval_queries)
  export(workdir / 'model', s.model, weights, s.processor)
  results = {'seed': config.seed, 'parameters': params.count(internvl.spec(s.model)),
             'before': before.summary(), 'after': after.summary()}
  record.replace(workdir / 'results.json', json.dumps(results, indent=2) + '\n')
  report.write(workdir, before, after)
  for name, r in (('warm-up', before), ('reinforcement learning', after)):
    low, high = r.interval
    print(f'held-out accuracy after {name}: {100 * r.accuracy:.1f} % (95 % interval {100 * low:.1f} to '
          f'{100 * high:.1f}, {len(r.right)} questions)')
  print(f'report: {workdir / "report.html"}')
  return results


if __name__ == '__main__':
  launch.run(main, CONFIGS, default='digits')
