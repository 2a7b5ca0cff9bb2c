"""Reinforcement learning of a policy that calls a Python tool: GRPO-RoC (rStar2-Agent, arXiv 2508.20722).

  python -m agents.train --workdir=runs/tools [--config=tiny --config.roc=off …]

A tiny language model learns, from scratch, to multiply numbers that it cannot multiply, by writing Python and reading
what it prints: a short supervised phase teaches the format, badly, then reward does the rest. The workdir ends with
metrics.jsonl, TensorBoard events, the reward curve, a page of conversations, and a checkpoint. Started again, it goes
on where it was stopped.
"""

import json
import operator
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from agents import report
from agents.configs import CONFIGS, Config, Stage
from agents.rollout import roc
from agents.rollout.grade import reward
from agents.rollout.problems import demonstrations
from agents.rollout.rows import Rows, gathered, log_probs, means, pack
from agents.rollout.sft import collate
from agents.rollout.trajectory import figures
from agents.setup import Setup, setup
from core import decoder, mesh, params
from core.launch import job as launch
from core.training import record
from core.training.optim import optimizer
from core.training.run import Run, loop
from core.training.steps import Loss, init_state, make_step
from rl import advantages, losses
from rl.update import reward_loss

SFT_SEED, ROLLOUT_SEED, HARD_SEED = 1, 2, 4  # separate streams of problems and of sampling
TRIES = 8  # of each problem, to find the hard ones (arXiv 2508.20722 §4.3)


def supervised(s: Setup, workdir: pathlib.Path):
  """The supervised phase; returns the weights."""
  c = s.config
  if not c.sft.steps:
    return s.weights
  spec = decoder.spec(s.model)
  shares = (c.sft.calls, c.sft.slips, c.sft.guesses)

  def loss(weights, batch, key) -> Loss:
    logp, _ = log_probs(params.cast(weights, c.dtype), s.model, batch, remat=c.remat)
    return Loss(*losses.aggregate(-logp, batch.mask[:, 1:], 'token'))

  tx = optimizer(c.sft.optim, c.sft.steps, spec)
  state = init_state(s.weights, tx)
  step = make_step(loss, tx, places=jax.tree.map(lambda x: x.sharding, state))

  def advance(state, i):
    mine = mesh.process_local(range(i * c.sft.batch, (i + 1) * c.sft.batch))
    found = demonstrations(c.seed * 16 + SFT_SEED, mine.start, len(mine), shares, s.protocol)
    tokens, mask = collate(found, pad_id=s.protocol.pad_id, length=c.sft.length)
    rows = Rows(
      tokens,
      mask,
      np.array([len(e.ids) for e in found], np.int32),
      np.zeros(tokens.shape, np.float32),
      np.zeros(len(found), np.float32),
    )
    return step(state, None, mesh.to_global(rows, s.place), jax.random.key(0))

  with jax.set_mesh(s.place), Run(workdir / 'sft', c, every=max(c.sft.steps // 4, 1)) as run:
    return loop(run, state, advance, c.sft.steps).params


class Hard:
  """Which problems the present stage draws from; None is all. Host state of the loop."""

  def __init__(self):
    self.numbers: list[int] | None = None

  def get_state(self):
    """For a checkpoint."""
    return self.numbers

  def set_state(self, state) -> None:
    """From a checkpoint."""
    self.numbers = state

  def find(self, s: Setup, stage: Stage) -> None:
    """Keeps the problems of a sample that are not solved in every try; all of it when none is left.

    Of several processes each tries its share.
    """
    mine = range(jax.process_index(), stage.hard, jax.process_count())
    asked = [(s.problem(ROLLOUT_SEED, n), n * TRIES + k) for n in mine for k in range(TRIES)]
    seeds = s.seeds(HARD_SEED, 0, stage.hard * TRIES)
    traces = s.rollout([p for p, _ in asked], [seeds[k] for _, k in asked], stage.bounds, s.config.temperature)
    right = np.zeros(stage.hard, np.int32)
    np.add.at(right, [k // TRIES for _, k in asked], [int(reward(t, p.answer)) for t, (p, _) in zip(traces, asked)])
    right = gathered(right).sum(0)
    self.numbers = np.flatnonzero(right < TRIES).tolist() or list(range(stage.hard))


def sample(s: Setup, stage: Stage, hard: Hard, i: int) -> tuple[Rows, dict]:
  """What rollout i leaves to train on, padded to a fixed number of rows, and its metrics.

  Of several processes each samples the trajectories of its share of the problems; the metrics are of all.
  """
  c, n = s.config, s.config.sampled
  numbers = mesh.process_local(range(i * c.prompts, (i + 1) * c.prompts))
  first = jax.process_index() * len(numbers)
  if hard.numbers is not None:
    numbers = [hard.numbers[n % len(hard.numbers)] for n in numbers]
  problems = [s.problem(ROLLOUT_SEED, n) for n in numbers]
  traces = s.rollout(
    [p for p in problems for _ in range(n)],
    mesh.process_local(s.seeds(ROLLOUT_SEED, i, c.prompts * n)),
    stage.bounds,
    c.temperature,
  )
  rewards = np.array([reward(t, problems[k // n].answer) for k, t in enumerate(traces)], np.float32)
  chosen = roc.resample(traces, rewards.reshape(-1, n), c.group, seed=c.seed, step=i, first=first, mode=c.roc)
  kept = [traces[k] for k in chosen.rows]
  gain = group_advantages(rewards[chosen.rows], chosen.group, len(problems))
  failed = lambda ts: figures(ts)['calls_failed']
  tokens = sum(len(t.ids) for t in traces)
  metrics = means(
    {
      'reward': (rewards.sum(), len(traces)),
      'tokens': (tokens, 1 / jax.process_count()),
      'response_length': (tokens, len(traces)),
      'right_calls_failed': failed([t for t, r in zip(traces, rewards) if r]),
      'kept_right_calls_failed': failed([t for t, k in zip(kept, chosen.rows) if rewards[k]]),
    }
    | figures(traces)
    | chosen.metrics
  )
  return pack(kept, gain, rows=len(problems) * c.group, pad_id=s.protocol.pad_id), metrics


def group_advantages(rewards: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
  """Advantages [k] of rewards [k] within their groups, int [k]: `rl.advantages.grpo` over the survivors only."""
  slot = np.array([(group[:k] == g).sum() for k, g in enumerate(group)], np.int64)
  wide = np.zeros((groups, max(slot.max(initial=0) + 1, 1)), np.float32)
  valid = np.zeros(wide.shape, bool)
  wide[group, slot], valid[group, slot] = rewards, True
  return np.asarray(advantages.grpo(jnp.asarray(wide), jnp.asarray(valid)))[group, slot]


def reinforce(s: Setup, weights, workdir: pathlib.Path):
  """The reinforcement-learning phase, all stages; returns the weights."""
  c = s.config
  starts = np.cumsum([0, *(stage.steps for stage in c.stages)])
  score = lambda w, rows: log_probs(params.cast(w, c.dtype), s.model, rows, temperature=c.temperature, remat=c.remat)
  recompute = jax.jit(lambda w, rows: score(w, rows)[0])

  def loss(weights, batch, key) -> Loss:
    rows, old, fresh = batch
    logp, entropy = score(weights, rows)
    return reward_loss(logp, entropy, rows.logp[:, 1:], old, fresh, rows.advantage[:, None], rows.mask[:, 1:], c.rule)

  tx = optimizer(c.optim, c.steps * c.updates, decoder.spec(s.model))
  state = init_state(weights, tx)
  step = make_step(loss, tx, accumulate=c.accumulate, places=jax.tree.map(lambda x: x.sharding, state))
  hard = Hard()

  def advance(state, i):
    number = int(np.searchsorted(starts, i, 'right')) - 1
    stage = c.stages[number]
    s.update(state.params)
    if i == starts[number]:
      hard.numbers = None
      if stage.hard:
        hard.find(s, stage)
      if stage.reset:
        state = init_state(state.params, tx)
    rows, metrics = sample(s, stage, hard, i)
    mine = [jax.tree.map(operator.itemgetter(slice(n, None, c.updates)), rows) for n in range(c.updates)]
    # Only the first update starts from the weights that sampled.
    parts = [mesh.to_global((part, np.full(len(part.length), n == 0)), s.place) for n, part in enumerate(mine)]
    old = [recompute(state.params, part) if n else part.logp[:, 1:] for n, (part, _) in enumerate(parts)]
    for (part, fresh), before in zip(parts, old):
      before = jax.device_put(before, part.logp.sharding)  # laid out alike: one compiled step takes them all
      state, update = step(state, None, (part, before, fresh), jax.random.key(0))
    if (i + 1) % c.eval_every == 0:
      s.update(state.params)
      metrics['heldout_accuracy'] = np.float32(s.evaluate(c.eval_problems // 8).accuracy)
    return state, metrics | update | {'stage': np.int32(number + 1)}

  with jax.set_mesh(s.place), Run(workdir, c, every=c.save_every, show=('reward', 'calls_failed')) as run:
    return loop(run, state, advance, c.steps, host={'hard': hard}).params


def main(config: Config, workdir: pathlib.Path) -> dict:
  """Trains, evaluates and reports; returns what stands in results.json."""
  with setup(config) as s:
    weights = supervised(s, workdir)
    s.update(weights)
    before = s.evaluate(config.eval_problems)
    logging.info('held-out accuracy before: %.1f %%', 100 * before.accuracy)
    weights = reinforce(s, weights, workdir)
    s.update(weights)
    after = s.evaluate(config.eval_problems)
    with jax.set_mesh(s.place):
      decoder.save(workdir / 'model', s.model, params.cast(weights, config.dtype))
    first = jax.process_index() == 0
    if first:
      s.protocol.tokenizer.save_pretrained(workdir / 'model')
  results = {
    'seed': config.seed,
    'parameters': params.count(decoder.spec(s.model)),
    'before': before.summary(),
    'after': after.summary(),
  }
  if first:
    record.replace(workdir / 'results.json', json.dumps(results, indent=2) + '\n')
    report.write(workdir, before, after)
  for name, r in (('before', before), ('after', after)):
    print(f'held-out accuracy {name} reinforcement learning: {r}')
  print(f'report: {workdir / "report.html"}')
  return results


if __name__ == '__main__':
  launch.run(main, CONFIGS, default='tiny')
