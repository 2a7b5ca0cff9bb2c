"""Trains a recipe and its control from one model, at learning rates that are chosen for each.

    python -m bench.recipes.study --recipe=vision_sr1 --out=runs/vision_sr1_study
    python -m bench.recipes.study --recipe=svs --out=runs/svs_study
    python -m bench.recipes.figures --recipe=svs --runs=runs/svs_study --out=docs

One model is warmed up by imitation. Each arm tries three learning rates on a seed of its own; the one whose model is
best on held-out questions at the end is used for the three seeds that are reported. With --rate, nothing is chosen: the
three seeds of both arms have that rate. Trials that have ended are not run again and a stopped one continues, so the
same command can be given any number of times.
"""

import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Literal

from bench.recipes import trials
from bench.recipes.trials import Trial
from core.launch import command
from core.launch.fields import field
from core.training.record import replace

# jax is imported by the functions that need it: flags are checked first.

MEASURED = 'heldout.json'  # in the folder of a model or a trial: its measures, a value for each question


@dataclasses.dataclass(frozen=True)
class Named:
  """The flag that says which study."""

  recipe: Literal['vision_sr1', 'svs', 'treepo'] = field('vision_sr1', 'what is compared with its control')
  rate: float = field(0.0, 'learning rate of the reported seeds of both arms; 0: the one chosen for each', low=0)


@dataclasses.dataclass(frozen=True)
class Options(Named):
  """The program's flags."""

  out: str = field('runs/study', 'folder for all runs')
  questions: int = field(512, 'held-out questions that a model is measured on', low=1)


def named(name: str):
  """The recipe of this name."""
  from bench.recipes import svs, treepo, vision_sr1

  recipes = {'svs': svs, 'treepo': treepo, 'vision_sr1': vision_sr1}
  return recipes[name].RECIPE


def warm_up(config, folder: pathlib.Path) -> None:
  """Writes the model that all trials start from, unless it is written already."""
  import jax

  from core import params
  from rl import policy as policies
  from rl import train
  from rl.devices import meshes
  from rl.learning.supervised import supervise
  from rl.learning.update import Pass

  if (folder / 'model' / 'config.json').exists():
    return
  place, _ = meshes(config)
  policy, weights = policies.load(config.model, place, seed=config.seed)
  shown = train.demonstrations_of(config, policy, train.task_of(config))
  score = Pass(policy, dtype=config.dtype, remat=config.remat)
  weights = supervise(score, weights, shown, config.warmup, folder, place, config)
  with jax.set_mesh(place):
    policy.save(folder / 'model', params.cast(weights, config.dtype))


def configuration(recipe, trial: Trial, model: pathlib.Path):
  """The config of a trial, from the model that was warmed up."""
  arm = recipe.arms[trial.arm]
  return dataclasses.replace(
    arm,
    model=str(model),
    seed=trial.seed,
    warmup=dataclasses.replace(arm.warmup, steps=0),
    optim=dataclasses.replace(arm.optim, lr=trial.rate),
  )


def measure(recipe, config, model: pathlib.Path, questions: int) -> dict:
  """The measures of a model, a value for each held-out question."""
  from rl import policy as policies
  from rl import train
  from rl.devices import meshes
  from rl.loop import prompt_limit
  from rl.rollout import Ask, Sampler
  from rl.rollout.collect import QuerySource

  place, home = meshes(config)
  policy, weights = policies.load(str(model), place)
  sampler = Sampler(policy, weights, config.engine, home, config.dtype)
  limit = prompt_limit(policy, config, config.max_new, config.prompt_length)
  source = QuerySource(train.task_of(config), policy, config.seed, limit)
  queries = source.heldout(questions)
  ask = Ask(0, 0, range(len(queries)), queries, [source.prompt(query) for query in queries])
  return dict(recipe.measure(sampler, ask, config))


def measured(folder: pathlib.Path) -> dict[str, list[float]]:
  """What was measured of the model in a folder. Raises OSError before it was."""
  return json.loads((folder / MEASURED).read_text(encoding='utf-8'))


def ended(folder: pathlib.Path, trial: Trial) -> bool:
  """Whether a trial has come to its end."""
  return (folder / trial.name / MEASURED).exists()


def reached(folder: pathlib.Path, trial: Trial, name: str) -> float:
  """The mean of a measure over the questions, at the end of a trial."""
  values = measured(folder / trial.name)[name]
  return sum(values) / len(values)


def best_rate(recipe, folder: pathlib.Path, arm: str) -> float:
  """The learning rate that is chosen for an arm. Raises OSError before the trials that choose have ended."""
  return trials.best_rate(arm, recipe.rates, lambda trial: reached(folder, trial, recipe.choice))


def record(recipe, config, folder: pathlib.Path, questions: int) -> None:
  """Measures the model in a folder and keeps the result there."""
  found = measure(recipe, config, folder / 'model', questions)
  replace(folder / MEASURED, json.dumps(found) + '\n')


def run(recipe, options: Options, trial: Trial) -> None:
  """Runs a trial to its end and measures its model, unless it has ended already."""
  from rl import train

  out = pathlib.Path(options.out)
  if ended(out, trial):
    return
  print(f'trial {trial.name}', flush=True)
  config = configuration(recipe, trial, out / 'base' / 'model')
  train.main(config, out / trial.name)
  record(recipe, config, out / trial.name, options.questions)


def work(options: Options) -> None:
  """Runs what is left of the study."""
  recipe = named(options.recipe)
  out = pathlib.Path(options.out)
  warm_up(recipe.first, out / 'base')
  if not (out / 'base' / MEASURED).exists():
    record(recipe, recipe.first, out / 'base', options.questions)
  for trial in itertools.chain.from_iterable(trials.choosing(arm, recipe.rates) for arm in recipe.arms):
    if not options.rate:
      run(recipe, options, trial)
  rates = {arm: options.rate or best_rate(recipe, out, arm) for arm in recipe.arms}
  for seed in trials.REPORTED:
    for arm, rate in rates.items():
      run(recipe, options, Trial(arm, rate, seed))
  print(f'all trials have ended: {options.out}')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
