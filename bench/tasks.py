"""All tasks by name, and their options as `--set name=value` gives them."""

import inspect
import typing
from collections.abc import Callable, Sequence

from bench.cmphysbench import cmphysbench
from bench.gpqa import gpqa
from bench.harness.task import Task
from bench.ifeval import ifeval
from bench.maths import aime, maths
from bench.search.gaia import gaia
from bench.search.qa import qa
from bench.speech import asr, tts
from bench.unigenbench import unigenbench
from bench.vlm.grounding import grounding
from bench.vlm.hallusion import hallusionbench
from bench.vlm.mathvista import mathvista
from bench.vlm.mmmu import mmmu, mmmu_pro
from bench.vlm.multiple_choice import ai2d, erqa, mmstar, realworldqa
from bench.vlm.picture_maths import dynamath, mathverse, mathvision
from bench.vlm.screenspot import screenspot
from bench.vlm.short_answers import chartqa, docvqa, infovqa
from bench.vlm.text_in_pictures import ocrbench, textvqa
from bench.vlm.vsi import vsibench

TASKS: dict[str, Callable[..., Task]] = {
  make.__name__: make
  for make in (
    ai2d,
    aime,
    asr,
    chartqa,
    cmphysbench,
    docvqa,
    dynamath,
    erqa,
    gaia,
    gpqa,
    grounding,
    hallusionbench,
    ifeval,
    infovqa,
    maths,
    mathverse,
    mathvision,
    mathvista,
    mmmu,
    mmmu_pro,
    mmstar,
    ocrbench,
    qa,
    realworldqa,
    screenspot,
    textvqa,
    tts,
    unigenbench,
    vsibench,
  )
}


def options(name: str) -> dict[str, inspect.Parameter]:
  """The options of a task: the keyword arguments of its function."""
  if name not in TASKS:
    raise ValueError(f'--task={name}: unknown, expected one of {", ".join(TASKS)}')
  return dict(inspect.signature(TASKS[name]).parameters)


def make(name: str, settings: Sequence[str], judge=None) -> Task:
  """The task `name` with settings of the form "option=value". Raises ValueError naming what is wrong."""
  known = options(name)
  values = {}
  for setting in settings:
    option, equals, value = setting.partition('=')
    if not equals or option not in known or option == 'judge':
      listed = ', '.join(o for o in known if o != 'judge') or 'none'
      raise ValueError(f'--set={setting}: {name} has the options {listed}, given as option=value')
    values[option] = _value(f'--set={setting}', value, typing.get_type_hints(TASKS[name])[option])
  if judge is not None:
    if 'judge' not in known:
      raise ValueError(f'--judge: {name} asks no judge')
    if not values.get('judgements'):
      raise ValueError('--judge needs --set judgements=<file that keeps its verdicts>')
    values['judge'] = judge
  return TASKS[name](**values)


def _value(setting: str, text: str, kind: type):
  if kind is bool:
    if text.lower() not in ('true', 'false'):
      raise ValueError(f'{setting}: expected true or false')
    return text.lower() == 'true'
  try:
    return kind(text)
  except ValueError:
    raise ValueError(f'{setting}: expected {kind.__name__}') from None


def describe() -> str:
  """One paragraph a task: what it is and its options with their defaults."""
  lines = []
  for name, function in TASKS.items():
    defaults = ', '.join(f'{p.name}={p.default}' for p in options(name).values() if p.name != 'judge')
    lines += [f'  {name}: {" ".join(function.__doc__.split())}', f'    options: {defaults or "none"}']
  return '\n'.join(lines)
