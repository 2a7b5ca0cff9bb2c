"""Compiles a program's step ahead of time for TPUs or GPUs that are not here: does it fit, what does it cost, what
bounds it.

  python -m core.plan --program=internvl.train --config=8b_sft --topology=v5p:4x8x8 [--model=2] [--batch=256]

Needs only the compiler: pip install -e '.[plan]' for TPUs, '.[plan-gpu]' for GPUs, such as `--topology=h200:1`. With
`--topology=cpu:1` it plans for the CPU of this machine, as one device. The mesh is the config's; --data, --expert,
--seq and --model override its axes, --batch and --config.<field>=<value> its other fields. Exits 0 when a plan was
made, whether or not the step fits, and 2 on bad usage. With --program, --help also lists the fields of that program's
config.
"""

import dataclasses
import importlib
import json
import pathlib
import sys

from core.launch import errors, job, origin, usage
from core.launch import options as options_lib
from core.launch.fields import field
from core.plan import chips

AXES = ('data', 'expert', 'seq', 'model')


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags besides --config."""

  program: str | None = field(None, 'module with CONFIGS and plan_step, such as internvl.train')
  topology: str | None = field(None, '<TPU>:<shape>, such as v5p:4x8x8; <GPU>:<number>, such as h200:1; or cpu:1')
  json: str | None = field(None, 'file for all figures')
  batch: int | None = field(None, 'rows of a step (the field `batch` of the config)', low=1)
  data: int | None = field(None, 'size of the mesh axis data', low=1)
  expert: int | None = field(None, 'size of the mesh axis expert', low=1)
  seq: int | None = field(None, 'size of the mesh axis seq', low=1)
  model: int | None = field(None, 'size of the mesh axis model', low=1)


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
  value = options_lib.given(argv, name)
  if value is None:
    raise chips.PlanError(f'--{name} is missing; for example --{name}={example}')
  return value


def plan(argv: list[str]):
  """(Plan, --json) of a command line. Raises ValueError with one clear line."""
  topology = _required(argv, 'topology', 'v5p:4x8x8')
  chip, _ = chips.parse(topology)
  name = _required(argv, 'config', '8b_sft')
  program = load(_required(argv, 'program', 'internvl.train'))
  parsed = job.parse(program.CONFIGS, name, argv, options=Options)
  config = _override(parsed.config, parsed.options)
  devices = chips.devices(topology)
  from core import mesh as mesh_lib
  from core.plan import aot, report

  mesh = mesh_lib.make(**dataclasses.asdict(config.mesh), devices=devices)
  step = program.plan_step(config, mesh)
  mesh = step.mesh or mesh
  title = f'{program.__name__} {name} on {topology}: {_describe(config)}'
  return report.make(title, step, mesh, chip, aot.compile_step(step, mesh)), parsed.options.json


def _override(config, options: Options):
  """The config with the axes and the batch that flags set."""
  axes = {axis: getattr(options, axis) for axis in AXES if getattr(options, axis) is not None}
  config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **axes))
  if options.batch is None:
    return config
  if not hasattr(config, 'batch'):
    raise chips.PlanError(f'--batch={options.batch}: this config has no field batch')
  return dataclasses.replace(config, batch=options.batch)


def _describe(config) -> str:
  plain = ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
  return ', '.join(f'{name} {value}' for name, value in plain if not dataclasses.is_dataclass(value))


def _help(argv: list[str]) -> str:
  """The text of --help, with the fields of the program's config if one is named."""
  program = options_lib.given(argv, 'program')
  if program is None:
    config = '  --config: a config of the program'
    return usage.page(__doc__, ('Flags:', [config, *usage.field_lines(Options, prefix='--')]))
  configs = load(program).CONFIGS
  asked = options_lib.given(argv, 'config')
  return job.help_text(__doc__, configs, asked if asked in configs else next(iter(configs)), options=Options)


def _run(argv: list[str]) -> None:
  """Prints the help or the plan. Raises UsageError for anything wrong with the command line or the plan."""
  from core.plan import report

  origin.check()
  try:
    if options_lib.wants_help(argv[1:]):
      print(_help(argv))
      return
    made, path = plan(argv)
  except ValueError as error:  # everything that stops a plan was asked for by a flag
    raise errors.UsageError(str(error)) from error
  print(report.text(made))
  if path:
    pathlib.Path(path).write_text(json.dumps(made.as_json(), indent=2) + '\n')


def main(argv: list[str]) -> int:
  """Prints the plan; the exit status."""
  return errors.exit_status(lambda: _run(argv))


if __name__ == '__main__':
  chips.prepare()
  sys.exit(main(sys.argv))
