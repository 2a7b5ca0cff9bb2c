"""Where a compiled program's time goes, by kind of operation, from a trace of `jax.profiler`."""

import collections
import gzip
import json
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

OPERATION = re.compile(r'\s*(?:ROOT )?%?([\w.-]+) = .+? ([\w-]+)\(')
COMPUTATION = re.compile(r'^%?([\w.-]+) \(.*\{$')
CALLED = re.compile(r'calls=%?([\w.-]+)')
CONTROL = ('while', 'call', 'conditional')  # their time is that of the operations inside
COMPLETE = 'X'  # an event with a duration, in Chrome's trace format
LEVEL = 3  # of the profiler's own messages; an operation is one of 3


def shares(run: Callable[[], Any], text: str) -> dict[str, float]:
  """Parts of 1 of the time of `run`, a program whose optimised HLO is `text`, in the order of their size.

  A fusion with a product in it is a product, one with a sum or a maximum a reduction; the others are elementwise.
  """
  kinds = dict(_kinds(text))
  seconds: collections.Counter[str] = collections.Counter()
  for event in _events(run):
    if event.get('ph') == COMPLETE and event['name'] in kinds:
      kind = kinds[event['name']]
      seconds[kind] += event['dur']
  total = seconds.total()
  return {kind: part / total for kind, part in seconds.most_common()}


def _kinds(text: str) -> Iterator[tuple[str, str]]:
  """(name, kind) of each operation that has a time of its own."""
  bodies: dict[str, list[str]] = collections.defaultdict(list)
  name = ''
  for line in text.splitlines():
    opened = COMPUTATION.match(line.removeprefix('ENTRY '))
    if opened:
      name = opened[1]
    bodies[name].append(line)
  for line in text.splitlines():
    operation = OPERATION.match(line)
    if operation and operation[2] not in CONTROL:
      called = CALLED.search(line)
      body = '\n'.join(bodies[called[1]]) if called else line
      yield operation[1], _kind(operation[2], body)


def _kind(operation: str, body: str) -> str:
  if ' dot(' in body or ' convolution(' in body:
    return 'products'
  if operation == 'copy':
    return 'copies'
  if ' reduce(' in body or ' reduce-window(' in body:
    return 'reductions'
  return 'elementwise'


def _events(run: Callable[[], Any]) -> list[dict[str, Any]]:
  """What the profiler saw of one run."""
  import jax

  options = jax.profiler.ProfileOptions()
  options.host_tracer_level = LEVEL
  options.python_tracer_level = 0
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, profiler_options=options):
      run()
    (file,) = pathlib.Path(folder).rglob('*.trace.json.gz')
    return json.loads(gzip.decompress(file.read_bytes()))['traceEvents']
