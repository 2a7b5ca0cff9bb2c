"""Two answers as trees: how they are read, whether they are equal, and what they earn otherwise."""

import dataclasses
import itertools

from bench.seed import tree
from bench.seed.algebra.canonical import canonical
from bench.seed.algebra.equivalence import Verdict, compare
from bench.seed.algebra.relations import factor, proportional, relation_verdict
from bench.seed.nodes import Budget, Node, SeedError
from bench.seed.pairs import Pair, branches, pair, settle
from bench.seed.reading.parser import Reading
from bench.seed.reading.remarks import Fact, facts
from bench.seed.result import Mark

ROUNDING = 0.05  # of the values in conditions, relative


@dataclasses.dataclass
class Job:
  """One pair's reading rules, hat setting and remaining work; symbolic: whether sympy may be used."""

  reading: Reading
  hats: bool
  budget: Budget
  symbolic: bool = False


class BadReference(Exception):
  """The reference, not the prediction, cannot be read; `cause` is the reason."""

  def __init__(self, cause: SeedError):
    super().__init__(str(cause))
    self.cause = cause


def read_reference(read, text: str, job: Job):
  """`read(text, job)` for a reference. Raises BadReference."""
  try:
    return read(text, job)
  except SeedError as error:
    raise BadReference(error) from error


def unit_reading(reading: Reading) -> Reading:
  """The same reading with bare words as units."""
  return dataclasses.replace(reading, units=True)


def trees(reference: Node, prediction: Node, job: Job) -> Mark:
  """The mark for two trees: expressions, inequalities or lists."""
  reference, prediction, ordered = settle(reference, prediction, hats=job.hats)
  both = pair(reference, prediction, ordered, job.budget)
  if both.reference == both.prediction:
    return Mark(100.0, 'structure')
  verdict = _verdict(reference, prediction, both.context)
  if verdict is Verdict.EQUAL:
    return Mark(100.0, 'numeric')
  if verdict is Verdict.UNDECIDED and job.symbolic and _symbolically_equal(both):
    return Mark(100.0, 'symbolic')
  points = edit_points(both.reference, both.prediction, job.budget)
  return Mark(points, 'distance', flags=flags_of(verdict))


def opposed(reference: str, prediction: str, job: Job) -> bool:
  """Whether the conditions of two answers say different things of one name, or name different states."""
  wanted = facts(reference, job.reading)
  given = facts(prediction, job.reading)
  names = {fact.name for fact in wanted} & {fact.name for fact in given}
  for name in names:
    a = [fact for fact in wanted if fact.name == name]
    b = [fact for fact in given if fact.name == name]
    if not _includes(a, b, job) and not _includes(b, a, job):
      return True
  return False


def _includes(facts_of_one: list[Fact], others: list[Fact], job: Job) -> bool:
  """Whether each of the others is among the facts; a strict inequality counts as the other one."""
  return all(any(_same(fact, other, job) for fact in facts_of_one) for other in others)


def _same(a: Fact, b: Fact, job: Job) -> bool:
  if a.sign != b.sign:
    return False
  if trees(a.value, b.value, job).points == 100:
    return True
  return _near(a.value, b.value, job)


def _near(a: Node, b: Node, job: Job) -> bool:
  """Whether two values differ by rounding: a condition such as g = 9.8 is no result."""
  if 'relation' in (a.head, b.head):
    return False
  a, b, ordered = settle(a, b, hats=job.hats)
  both = pair(a, b, ordered, job.budget)
  if proportional(both.reference, both.prediction, both.context) is not Verdict.EQUAL:
    return False
  ratio = factor(both.reference, both.prediction, both.context)
  return ratio is not None and abs(ratio - 1) <= ROUNDING


def flags_of(verdict: Verdict) -> tuple[str, ...]:
  """The flags of a mark that rests on a verdict: whether no test could decide."""
  if verdict is Verdict.UNDECIDED:
    return ('undecided',)
  return ()


def _symbolically_equal(both: Pair) -> bool:
  from bench.seed.algebra import symbolic

  return symbolic.equal(both.reference, both.prediction, both.context)


def _verdict(a: Node, b: Node, context) -> Verdict:
  """Whether the two are equal, where a ± means the set of its two branches."""
  if 'relation' in (a.head, b.head):
    if a.head == b.head:
      return relation_verdict(a, b, context)
    return Verdict.DIFFERENT
  left = [canonical(branch, context) for branch in branches(a)]
  right = [canonical(branch, context) for branch in branches(b)]
  if len(left) != len(right):
    return Verdict.DIFFERENT
  is_different = True
  for order in itertools.permutations(right):
    verdicts = [compare(x, y, context) for x, y in zip(left, order)]
    if all(verdict is Verdict.EQUAL for verdict in verdicts):
      return Verdict.EQUAL
    is_different = is_different and Verdict.DIFFERENT in verdicts
  if is_different:
    return Verdict.DIFFERENT
  return Verdict.UNDECIDED


def edit_points(reference: Node, prediction: Node, budget: Budget) -> float:
  """Partial credit of two canonical trees that are not equal."""
  wanted = tree.Flat(reference)
  given = tree.Flat(prediction)
  size = len(wanted.labels)
  # Inserting a surplus costs at least 0.6 a node, so a tree of twice the size earns nothing.
  if len(given.labels) >= 2 * size + 8:
    return 0.0
  gap = tree.distance(given, wanted, budget)
  return tree.tree_points(max(1.0, gap), size)
