"""The collectives of a compiled program, counted with the trips of the loops they stand in."""

import collections
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
_LIMIT = re.compile(r' = s32\[\]\S* constant\((\d+)\)')
_ARRAY = re.compile(r'\b([a-z]\w*)\[([\d,]*)\]')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One kind: instructions in the text, executions a step, and bytes a device that come out of them a step.

  `exact` is False where a loop's trip count is not in the text: its body is then counted once.
  """

  kind: str
  sites: int
  count: int
  bytes: int
  exact: bool


def result_bytes(opcode: str, result: str) -> int:
  """Bytes of what a collective yields, from its HLO type; the start of an asynchronous one lists its operands first."""
  arrays = [(kind, dims) for kind, dims in _ARRAY.findall(result) if (kind, dims) != ('u32', '')]  # u32[]: bookkeeping
  if opcode.endswith('-start') and opcode != 'all-reduce-start':
    arrays = arrays[len(arrays) // 2 :]
  return sum(math.prod(map(int, filter(None, dims.split(',')))) * _WIDTHS.get(kind, 0) for kind, dims in arrays)


def _limits(text: str) -> dict[str, int]:
  """name → n of the computations that say `counter < n` and hold no other number: the conditions of scans."""
  found = {}
  for body in re.split(r'\n(?=\S)', text):
    header, numbers = _HEADER.match(body.split('\n', 1)[0]), _LIMIT.findall(body)
    if header and len(numbers) == 1 and 'ROOT' in body and 'direction=LT' in body:
      found[header[2]] = int(numbers[0])
  return found


def _trips(line: str, limits: dict[str, int]) -> int | None:
  """How often the loop on a line runs: as stated, or, counting from zero as scans do, up to its condition's number."""
  stated, condition = _TRIPS.search(line), _CONDITION.search(line)
  return int(stated[1]) if stated else limits.get(condition[1]) if condition else None


def _computations(text: str):
  """name → (collectives [(kind, bytes)], calls [(name, times, exact)]); and the name of the entry."""
  found, entry, name = {}, None, None
  limits = _limits(text)
  for line in text.splitlines():
    if (header := _HEADER.match(line)) is not None:
      name = header[2]
      found[name] = ([], [])
      entry = name if header[1] else entry
    elif name is not None and (instruction := _INSTRUCTION.match(line)) is not None:
      own, calls = found[name]
      result, opcode = instruction[1], instruction[2]
      if opcode.removesuffix('-start') in KINDS:
        own.append((opcode.removesuffix('-start'), result_bytes(opcode, result)))
        continue  # what it applies is its reduction
      trips = _trips(line, limits) if opcode == 'while' else 1
      times, exact = trips or 1, trips is not None
      calls += [(called, times, exact) for called in _CALLED.findall(line)]
      for group in _BRANCHES.findall(line):
        calls += [(called.strip().lstrip('%'), 1, True) for called in group.split(',') if called.strip()]
  return found, entry


def collectives(text: str) -> list[Collective]:
  """The collectives of an optimised HLO text, largest total first. Branches of a conditional are all counted."""
  found, entry = _computations(text)
  totals = collections.defaultdict(lambda: [set(), 0, 0, True])

  def visit(name, times, exact):
    own, calls = found.get(name, ((), ()))
    for i, (kind, size) in enumerate(own):
      total = totals[kind]
      total[0].add((name, i))
      total[1] += times
      total[2] += times * size
      total[3] &= exact
    for called, more, known in calls:
      visit(called, times * more, exact and known)

  if entry is not None:
    visit(entry, 1, True)
  made = [Collective(kind, len(sites), count, size, exact) for kind, (sites, count, size, exact) in totals.items()]
  return sorted(made, key=lambda c: -c.bytes)
