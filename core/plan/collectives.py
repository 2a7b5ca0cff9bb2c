"""The collectives of a compiled program, each counted as often as the loops around it run."""

import dataclasses
import math
import re

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
  'collective-broadcast',
)
_WIDTHS = {
  'pred': 1,
  's8': 1,
  'u8': 1,
  's16': 2,
  'u16': 2,
  'bf16': 2,
  'f16': 2,
  's32': 4,
  'u32': 4,
  'f32': 4,
  's64': 8,
  'u64': 8,
  'f64': 8,
}
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\(')
_CALLED = re.compile(r'(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'(?:branch_computations|called_computations)=\{([^}]*)\}')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r'condition=%?([\w.\-]+)')
_FUSED = re.compile(r'\bcalls=%?([\w.\-]+)')
_LIMIT = re.compile(r' = s32\[\]\S* constant\((\d+)\)')
_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,]*)\]')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One kind: instructions in the text, executions a step, and the bytes that they yield a device and step.

  `exact` is False if a loop's trip count is not in the text; its body is then counted once.
  """

  kind: str
  sites: int
  count: int
  bytes: int
  exact: bool


def result_bytes(opcode: str, result: str) -> int:
  """Bytes of what a collective yields, from its HLO type; the start of an asynchronous one lists its operands first."""
  arrays = [array for array in _ARRAY.findall(result) if array != ('u32', '')]  # u32[] is bookkeeping
  if opcode.endswith('-start') and opcode != 'all-reduce-start':
    arrays = arrays[len(arrays) // 2 :]
  return sum(_array_bytes(dtype, dims) for dtype, dims in arrays)


def _array_bytes(dtype: str, dims: str) -> int:
  """Bytes of an array such as ('f32', '8,128'); 0 for a dtype that is no number."""
  sizes = [int(size) for size in dims.split(',') if size]
  return math.prod(sizes) * _WIDTHS.get(dtype, 0)


def _limits(text: str) -> dict[str, int]:
  """name → n of the computations that test `counter < n` and hold no other number: the conditions of scans.

  XLA for GPUs fuses the test, so a computation is read together with what its fusions call.
  """
  bodies = {}
  for body in re.split(r'\n(?=\S)', text):
    header = _HEADER.match(body.split('\n', 1)[0])
    if header:
      bodies[header[2]] = body
  limits = {}
  for name, body in bodies.items():
    whole = body + ''.join(bodies.get(fused, '') for fused in _FUSED.findall(body))
    numbers = _LIMIT.findall(whole)
    if len(numbers) == 1 and 'direction=LT' in whole:
      limits[name] = int(numbers[0])
  return limits


def _trips(line: str, limits: dict[str, int]) -> int | None:
  """How often the loop on a line runs: the stated trip count, else (scans count from zero) its condition's limit."""
  stated = _TRIPS.search(line)
  if stated:
    return int(stated[1])
  condition = _CONDITION.search(line)
  if condition:
    return limits.get(condition[1])
  return None


def _called(line: str, opcode: str, limits: dict[str, int]) -> list[tuple[str, int, bool]]:
  """The computations that an instruction calls: [(name, times, exact)]."""
  trips = 1
  if opcode == 'while':
    trips = _trips(line, limits)
  calls = [(name, trips or 1, trips is not None) for name in _CALLED.findall(line)]
  for group in _BRANCHES.findall(line):
    names = [name.strip().lstrip('%') for name in group.split(',')]
    calls += [(name, 1, True) for name in names if name]
  return calls


def _computations(text: str):
  """name → (collectives [(kind, bytes)], calls [(name, times, exact)]); and the name of the entry."""
  computations = {}
  entry = name = None
  limits = _limits(text)
  for line in text.splitlines():
    header = _HEADER.match(line)
    if header is not None:
      name = header[2]
      computations[name] = ([], [])
      entry = name if header[1] else entry
      continue
    instruction = _INSTRUCTION.match(line)
    if name is None or instruction is None:
      continue
    own, calls = computations[name]
    result, opcode = instruction.groups()
    kind = opcode.removesuffix('-start')
    if kind in KINDS:
      own.append((kind, result_bytes(opcode, result)))  # the computation that it calls is its reduction
    else:
      calls += _called(line, opcode, limits)
  return computations, entry


def collectives(text: str) -> list[Collective]:
  """The collectives of an optimised HLO text, largest total first. Branches of a conditional are all counted."""
  computations, entry = _computations(text)
  totals = {}
  sites = set()

  def visit(name, times, exact):
    own, calls = computations.get(name, ((), ()))
    for i, (kind, size) in enumerate(own):
      before = totals.get(kind, Collective(kind, sites=0, count=0, bytes=0, exact=True))
      is_new = (name, i) not in sites
      sites.add((name, i))
      totals[kind] = Collective(
        kind,
        sites=before.sites + is_new,
        count=before.count + times,
        bytes=before.bytes + times * size,
        exact=before.exact and exact,
      )
    for called, trips, is_known in calls:
      visit(called, times * trips, exact and is_known)

  if entry is not None:
    visit(entry, 1, True)
  return sorted(totals.values(), key=lambda total: -total.bytes)
