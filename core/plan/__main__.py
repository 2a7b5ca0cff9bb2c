"""Compiles a program's step ahead of time for a TPU topology: does it fit, what does it cost, what binds.

  python -m core.plan --program=internvl.train --config=8b_sft --topology=v5p:4x8x8 [--model=2] [--batch=256]

Needs no TPU, only the compiler: pip install 'espalier-jax[plan]'. The mesh is the config's; --data, --expert, --seq
and --model override its axes, --batch and --config.<field>=<value> its other fields. --json writes all figures.
Exits 0 when a plan was made, whether or not the step fits, and 2 on bad usage.
"""

import dataclasses
import importlib
import json
import pathlib
import sys

from absl import flags

from core.launch import job as launch
from core.plan import chips

AXES = ('data', 'expert', 'seq', 'model')


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  flags.DEFINE_string('program', None, 'module with CONFIGS and plan_step', flag_values=values)
  flags.DEFINE_string('topology', None, '<generation>:<shape>, such as v5p:4x8x8', flag_values=values)
  flags.DEFINE_string('json', None, 'file for all figures', flag_values=values)
  flags.DEFINE_integer('batch', None, 'rows a step (the field `batch` of the config)', flag_values=values)
  for axis in AXES:
    flags.DEFINE_integer(axis, None, f'size of the mesh axis {axis}', flag_values=values)
  return values


def load(name: str):
  """The program called `name`. Raises PlanError when there is none or it has no plan_step."""
  try:
    module = importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name and (name == error.name or name.startswith(f'{error.name}.')):
      raise chips.PlanError(f'--program={name}: no such module') from error
    raise
  missing = [attribute for attribute in ('CONFIGS', 'plan_step') if not hasattr(module, attribute)]
  if missing:
    raise chips.PlanError(f'--program={name}: the module has no {" and no ".join(missing)}, so it cannot be planned')
  return module


def _required(argv: list[str], name: str, example: str) -> str:
  """The value of a flag that must be known before the others can be read."""
  for i, arg in enumerate(argv):
    flag, found, value = arg.lstrip('-').partition('=')
    if arg.startswith('-') and flag == name and (found or argv[i + 1 :]):
      return value if found else argv[i + 1]
  raise chips.PlanError(f'--{name} is missing; for example --{name}={example}')


def plan(argv: list[str]):
  """(Plan, --json) of a command line. Raises ValueError with one clear line."""
  topology = _required(argv, 'topology', 'v5p:4x8x8')
  chip, _ = chips.parse(topology)
  name = _required(argv, 'config', '8b_sft')
  program = load(_required(argv, 'program', 'internvl.train'))
  values = _flags()
  config, rest = launch.parse(program.CONFIGS, next(iter(program.CONFIGS)), argv, values)
  if rest[1:]:
    raise chips.PlanError(f'{rest[1]!r}: expected only flags')
  config = _override(config, values)
  devices = chips.devices(topology)
  from core import mesh as mesh_lib
  from core.plan import aot, report

  mesh = mesh_lib.make(**dataclasses.asdict(config.mesh), devices=devices)
  step = program.plan_step(config, mesh)
  mesh = step.mesh or mesh
  title = f'{program.__name__} {name} on {topology}: {_describe(config)}'
  return report.make(title, step, mesh, chip, aot.compile_step(step, mesh)), values.json


def _override(config, values):
  """The config with the axes and the batch that flags set."""
  axes = {axis: values[axis].value for axis in AXES if values[axis].value is not None}
  if any(n < 1 for n in axes.values()):
    raise chips.PlanError(f'mesh axes {axes}: expected sizes of 1 or more')
  config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **axes))
  if values.batch is None:
    return config
  if not hasattr(config, 'batch'):
    raise chips.PlanError(f'--batch={values.batch}: this config has no field batch')
  return dataclasses.replace(config, batch=values.batch)


def _describe(config) -> str:
  plain = ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
  return ', '.join(f'{name} {value}' for name, value in plain if not dataclasses.is_dataclass(value))


def main(argv: list[str]) -> int:
  """Prints the plan; the exit status."""
  if {'--help', '-h', '-help', '--helpfull', '--helpshort'} & set(argv):
    print(__doc__)
    return 0
  from core.plan import report

  try:
    made, path = plan(argv)
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(report.text(made))
  if path:
    pathlib.Path(path).write_text(json.dumps(made.as_json(), indent=2) + '\n')
  return 0


if __name__ == '__main__':
  chips.prepare()
  sys.exit(main(sys.argv))
