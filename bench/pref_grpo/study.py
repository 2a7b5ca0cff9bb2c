"""Trains digits by comparisons and by a score that can be hacked, from the same pretrained model.

    python -m bench.pref_grpo.study --out=runs/hacking
    python -m bench.pref_grpo.figures --runs=runs/hacking --out=docs
    python -m bench.pref_grpo.study --out=runs/hacked --rate=3e-4 --rollouts=180

One model is pretrained. Each arm tries three learning rates on a seed of its own; the one that the held-out judge finds
best at the end is used for the three seeds that are reported. One more trial has guidance 4.5. With --rate, nothing is
chosen: the three seeds of both arms have that rate. Trials that have ended are not run again and a stopped one
continues, so the same command can be given any number of times.
"""

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Sequence

from bench.pref_grpo import trials
from bench.pref_grpo.trials import Trial
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: flags are checked first.

HELDOUT = 80  # images before and after a trial, each caption twice


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  out: str = field('runs/hacking', 'folder for all runs')
  pretraining: int = field(800, 'updates of flow matching', low=1)
  batch: int = field(64, 'scans of such an update', low=1)
  rollouts: int = field(trials.ROLLOUTS, 'rollouts of a trial', low=trials.LAST)
  denoising: int = field(10, 'denoising steps of an image', low=3)
  eval_every: int = field(15, 'rollouts between grids of held-out images', low=1)
  rate: float = field(0.0, 'learning rate of the reported seeds of both arms; 0: the one chosen for each', low=0)


def configuration(options: Options, trial: Trial):
  """The config of a trial, from the pretrained model."""
  from rl.flow.configs import CONFIGS

  named = CONFIGS[trial.arm]
  return dataclasses.replace(
    named,
    model=str(base(options) / 'model'),
    seed=trial.seed,
    pretraining=dataclasses.replace(named.pretraining, steps=0),
    optim=dataclasses.replace(named.optim, lr=trial.rate),
    paths=dataclasses.replace(named.paths, steps=options.denoising, guidance=trial.guidance),
    # Scores that all fall into the dead zone are how a trial converges, and no fault of a judge.
    compare=dataclasses.replace(named.compare, patience=0),
    steps=options.rollouts,
    eval_every=options.eval_every,
    save_every=options.eval_every,
    eval_queries=HELDOUT,
  )


def base(options: Options) -> pathlib.Path:
  """The folder of the pretrained model."""
  return pathlib.Path(options.out) / 'base'


def pretrain(options: Options) -> None:
  """Writes the pretrained model that all trials start from, unless it is written already."""
  from rl.devices import meshes
  from rl.flow import pretrain as matching
  from rl.flow import train
  from rl.flow.configs import CONFIGS
  from rl.flow.toy import digits

  folder = base(options)
  if (folder / 'model' / 'config.json').exists():
    return
  phase = dataclasses.replace(CONFIGS['pref_grpo'].pretraining, steps=options.pretraining, batch=options.batch)
  config = dataclasses.replace(CONFIGS['pref_grpo'], seed=trials.CHOOSING, pretraining=phase)
  place, _ = meshes(config)
  policy, weights = train.load(config, place)
  weights = matching.pretrain(policy, weights, digits.draw, phase, folder, place, config)
  policy.save(folder / 'model', weights)


def run(options: Options, trial: Trial) -> None:
  """Runs a trial to its end, unless it has ended already."""
  from rl.flow import train

  out = pathlib.Path(options.out)
  if trials.ended(out, trial):
    return
  print(f'trial {trial.name}', flush=True)
  train.train(configuration(options, trial), out / trial.name)


def report(options: Options, rates: Sequence[float]) -> None:
  """Runs the reported seeds of all arms, each at its learning rate, seed by seed."""
  arms = zip(*(trials.reported(arm, rate) for arm, rate in zip(trials.ARMS, rates, strict=True)))
  for trial in itertools.chain.from_iterable(arms):
    run(options, trial)


def work(options: Options) -> None:
  """Runs what is left of the study."""
  pretrain(options)
  folder = pathlib.Path(options.out)
  if options.rate:
    report(options, [options.rate] * len(trials.ARMS))
  else:
    for trial in trials.choosing():
      run(options, trial)
    report(options, [trials.best_rate(folder, arm) for arm in trials.ARMS])
    run(options, trials.guided(trials.best_rate(folder, 'pref_grpo')))
  print(f'all trials have ended: {options.out}')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
