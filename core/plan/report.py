"""A plan as data and as text."""

import dataclasses
import math
from typing import Any

import jax

from core.params import path_name
from core.plan.aot import Compiled, Memory, shard_bytes
from core.plan.chips import Chip
from core.plan.collectives import Collective, collectives
from core.plan.formula import Roofline, Work, roofline, work
from core.plan.program import Program


@dataclasses.dataclass(frozen=True)
class Plan:
  """The contents of a report. by_kind: bytes on each device of the arguments, by kind. roofline: if rates are known."""

  title: str
  note: str
  mesh: dict[str, int]
  chip: Chip
  fits: bool
  by_kind: dict[str, int]
  compiled: Compiled
  work: Work
  roofline: Roofline | None
  collectives: list[Collective]
  advice: list[str]

  def as_json(self) -> dict[str, Any]:
    """Plain data; the compiled program's text is left out."""
    data = dataclasses.asdict(self)
    del data['compiled']['text']
    if self.roofline is not None:
      data['roofline'] |= {'binds': self.roofline.binds, 'seconds': self.roofline.seconds}
    return data


def make(title: str, program: Program, mesh, chip: Chip, compiled: Compiled) -> Plan:
  """The plan of a compiled (or refused) program."""
  by_kind = {kind: shard_bytes(tree) for kind, tree in program.kinds.items()}
  by_kind['other arguments'] = shard_bytes(program.args) - sum(by_kind.values())
  state = shard_bytes(program.args[0])
  counted = program.counted or work(program, mesh, state)
  fits = compiled.memory is not None and compiled.memory.total <= chip.hbm
  tips = []
  if not fits:
    tips = list(program.tips) or advice(program, mesh, chip, sum(by_kind.values()))
  elif compiled.memory.total > chip.taken * chip.hbm:
    tips = [f'XLA_PYTHON_CLIENT_MEM_FRACTION=0.95: JAX takes {chip.taken:.0%} of the memory without it']
  return Plan(
    title=title,
    note=program.note,
    mesh=dict(mesh.shape),
    chip=chip,
    fits=fits,
    by_kind=by_kind,
    compiled=compiled,
    work=counted,
    roofline=None if chip.flops is None else roofline(counted, chip, mesh.size),
    collectives=collectives(compiled.text),
    advice=tips,
  )


def advice(program: Program, mesh, chip: Chip, arguments: int) -> list[str]:
  """What to change first if a program does not fit, and why."""
  tips = []
  uneven = None
  if arguments > chip.hbm / 4:
    uneven = _uneven(program.kinds.get('weights'), mesh)
  if uneven:
    tips.append(uneven)
  elif arguments > chip.hbm / 2:
    tips.append(
      f'more devices in data (or expert): arguments alone take {_size(arguments)} of {_size(chip.hbm)}, '
      'and those axes shard weights and optimiser state'
    )
  if program.remat != 'full':
    tips.append(f'remat=full: under {program.remat!r} each layer keeps more than its input for the backward pass')
  tips.append(_rows_advice(program, mesh))
  return tips


def _rows_advice(program: Program, mesh) -> str:
  """What to change about the rows that a device computes at a time."""
  rows = program.rows / program.micro_batches / (mesh.shape['data'] * mesh.shape['expert'])
  if rows > 1:
    return (
      f'accumulate={program.micro_batches * math.ceil(rows)}: a device holds the activations of {rows:g} '
      'rows at once, one would do'
    )
  if rows < 1:
    return (
      f'a batch of {round(program.rows / rows)} or a smaller data axis: {program.rows} rows in '
      f'{program.micro_batches} micro-batches do not cover the batch axes, so activations are repeated'
    )
  return f'seq={2 * mesh.shape["seq"]}: a device already holds only one row; this axis shards its length'


def _uneven(weights: Any, mesh) -> str | None:
  """A sentence about the weight that shards worst, if all weights together take twice their even share or more."""

  def even_share(weight) -> float:
    return weight.size * weight.dtype.itemsize / mesh.size

  leaves = jax.tree.leaves_with_path(weights)
  if not leaves or shard_bytes(weights) < 2 * sum(even_share(weight) for _, weight in leaves):
    return None
  path, worst = max(leaves, key=lambda leaf: shard_bytes(leaf[1]) - even_share(leaf[1]))
  return (
    f'other sizes of data and expert: not all of them divide the weights, {path_name(path)} of shape '
    f'{worst.shape} worst, which takes {_size(shard_bytes(worst))} a device'
  )


def _size(n: float) -> str:
  """Bytes with the unit that keeps them readable."""
  for unit, power in (('GiB', 30), ('MiB', 20), ('KiB', 10)):
    if n >= 2**power:
      return f'{n / 2**power:.2f} {unit}'
  return f'{n:.0f} B'


def text(plan: Plan) -> str:
  """The plan for people."""
  axes = ' '.join(f'{axis}={n}' for axis, n in plan.mesh.items())
  lines = [
    plan.title,
    f'mesh {axes} ({math.prod(plan.mesh.values())} devices)',
    *filter(None, [plan.note]),
    '',
    *_memory(plan),
  ]
  if plan.advice:
    lines += ['', 'What to change, most effective first:']
    lines += [f'  {i}. {tip}' for i, tip in enumerate(plan.advice, 1)]
  lines += ['', *_formulas(plan)]
  if plan.compiled.memory is not None:
    lines += ['', *_collectives(plan.collectives)]
  c = plan.compiled
  lines += [
    '',
    f'Planned in {c.trace_seconds:.0f} s of tracing and {c.compile_seconds:.0f} s of compiling '
    f'({c.cpu_seconds:.0f} CPU s); peak memory of this process {_size(c.peak_rss)}',
  ]
  return '\n'.join(lines)


def _rows(rows) -> list[str]:
  return [f'  {name:<34}{value:>14}' for name, value in rows]


def _memory(plan: Plan) -> list[str]:
  lines = ['Bytes a device, arguments (from their shardings):']
  lines += _rows((kind, _size(size)) for kind, size in plan.by_kind.items())
  memory = plan.compiled.memory
  refused = plan.compiled.refused
  if memory is None:
    known = ''
    if refused.used:
      known = f': it needs {_size(refused.used)} of {_size(refused.available)}'
    return [*lines, '', f'DOES NOT FIT: the compiler refuses the program{known}']
  names = {'arguments': 'arguments, as laid out', 'alias': 'alias (donated and reused)', 'code': 'program'}
  lines += ['Bytes a device, from the compiler:']
  shown = [f.name for f in dataclasses.fields(Memory) if f.name != 'code' or memory.code]  # not all compilers say
  lines += _rows((names.get(name, name), _size(getattr(memory, name))) for name in shown)
  verdict = 'FITS' if plan.fits else 'DOES NOT FIT'
  return [*lines, '', f'{verdict}: {_size(memory.total)} of {_size(plan.chip.hbm)}']


def _formulas(plan: Plan) -> list[str]:
  w = plan.work
  r = plan.roofline
  devices = math.prod(plan.mesh.values())
  counts = [
    ('parameters', f'{w.parameters:,}'),
    ('of which a token uses', f'{w.active:,}'),
    ('model FLOPs, all devices', f'{w.model_flops:.3e}'),
    ('FLOPs with recomputation', f'{w.flops:.3e}'),
  ]
  traffic = [(f'HBM: {cause}', _size(size)) for cause, size in w.hbm.items()]
  traffic += [(f'{plan.chip.links}: {cause}', _size(size)) for cause, size in w.ici.items()]
  lines = ['A step by formula:', *_rows(counts), *_rows(traffic)]
  if r is None:
    return lines
  share = w.model_flops / devices / plan.chip.flops / r.seconds
  times = f'compute {r.compute:.3g} s, HBM {r.hbm:.3g} s'
  if devices > 1:
    times += f', {plan.chip.links} {r.ici:.3g} s'
  binds = plan.chip.links if r.binds == 'ici' else r.binds
  return [
    *lines,
    f'Roofline: {times} (estimate); {binds} binds, so at least {r.seconds:.3g} s a step and at most {share:.0%} '
    'of peak in model FLOPs',
  ]


def _collectives(found: list[Collective]) -> list[str]:
  if not found:
    return ['No collectives in the program.']
  lines = ['Collectives in the program, times and result bytes a device and step:']
  for c in found:
    line = f'  {c.kind:<20}{c.sites:>4} sites {c.count:>6} times {_size(c.bytes):>12}'
    if not c.exact:
      line += '  at least: a loop without a known trip count is counted once'
    lines.append(line)
  return lines
