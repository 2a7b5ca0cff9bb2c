"""One pair to one score, in this process. Work is bounded by counted steps, so no clock decides a verdict."""

import contextlib
import sys
import time

from bench.seed import comparison, equations, intervals, kinds, quantity
from bench.seed.nodes import Budget, SeedError
from bench.seed.pairs import STEPS
from bench.seed.reading.parser import Reading
from bench.seed.reading.remarks import contradict
from bench.seed.reading.scanning.scanner import tokenize
from bench.seed.result import KINDS, Mark, Score, Settings

_RECURSION = 12_000
_SCORERS = {
  'Expression': kinds.expression,
  'Equation': equations.equation,
  'Tuple': kinds.tuple_,
  'Interval': intervals.interval,
}


def score(
  reference: str,
  prediction: str | None,
  kind: str,
  *,
  settings: Settings | None = None,
  symbolic: bool = False,
  **options,
) -> Score:
  """SEED points of a prediction against a reference, both LaTeX.

  kind is one of `KINDS`; options are the fields of `Settings`. The call never raises for what a prediction
  contains: see `Score.status`. symbolic: ask sympy where numbers cannot decide, here and without a time limit;
  `score_many` does so in a process it can kill. Raises ValueError for an unknown kind or setting, TypeError for a
  reference that is not text. CMPhysBench, arXiv 2508.18124.
  """
  settings = settings or Settings(**options)
  if kind not in KINDS:
    raise ValueError(f'kind={kind!r}: expected one of {", ".join(KINDS)}')
  if not isinstance(reference, str):
    raise TypeError(f'the reference must be text, not {type(reference).__name__}')
  if prediction is not None and not isinstance(prediction, str):
    raise TypeError(f'the prediction must be text or None, not {type(prediction).__name__}')
  start = time.perf_counter()
  mark = _mark(reference, prediction, kind, settings, symbolic)
  return Score(
    mark.points, mark.status, mark.test, time.perf_counter() - start, settings.mode, settings.tiers, flags=mark.flags
  )


def readable(reference: str, kind: str, **options) -> bool:
  """Whether a reference can be read at all; only an equal text earns points against one that cannot."""
  return 'reference' not in score(reference, '1', kind, **options).flags


def _mark(reference: str, prediction: str | None, kind: str, settings: Settings, symbolic: bool) -> Mark:
  if prediction is None or not prediction.strip():
    return Mark(0.0, status='no_answer')
  if settings.mode == 'compat':
    from bench.seed.published import scoring as compat

    return compat.mark(reference, prediction, kind, settings)
  if _trimmed(reference) == _trimmed(prediction):
    return Mark(100.0, 'text')
  job = comparison.Job(_reading(settings), settings.hats, Budget(STEPS), symbolic)
  try:
    with _deep_recursion():
      mark = _of_kind(reference, prediction, kind, job, settings)
      is_opposed = contradict(reference, prediction)
      if kind != 'Numeric' and mark.points:
        is_opposed = is_opposed or comparison.opposed(reference, prediction, job)
      return Mark(0.0, 'distance') if is_opposed else mark
  except comparison.BadReference as error:
    return Mark(0.0, status=error.cause.status, flags=('reference',))
  except SeedError as error:
    return Mark(0.0, status=error.status)
  except RecursionError:
    return Mark(0.0, status='too_large')


def _of_kind(reference: str, prediction: str, kind: str, job: comparison.Job, settings: Settings) -> Mark:
  """The mark before words and conditions are compared."""
  if kind == 'Numeric':
    return quantity.numeric(reference, prediction, job, settings)
  scorer = _SCORERS[kind]
  if kind in ('Expression', 'Equation'):
    return quantity.with_units(scorer, reference, prediction, kind, job, settings)
  return scorer(reference, prediction, job)


def _trimmed(text: str) -> str:
  return ' '.join(text.replace('$', ' ').split())


def _reading(settings: Settings) -> Reading:
  """Whether i and e are symbols of the problem, from its list of symbols."""
  letters: set[str] = set()
  if settings.symbols:
    with contextlib.suppress(SeedError):
      tokens = tokenize(settings.symbols)
      for k, token in enumerate(tokens):
        alone = all(t.kind != 'letter' for t in tokens[max(k - 1, 0) : k] + tokens[k + 1 : k + 2])
        after = k + 1 < len(tokens) and tokens[k + 1].kind in '_^'
        before = k and tokens[k - 1].kind in '_^'
        if token.kind == 'letter' and alone and not after and not before:
          letters.add(token.text)
  return Reading(i='i' in letters, e='e' in letters, log_base=settings.log_base)


@contextlib.contextmanager
def _deep_recursion():
  """Room for the deepest tree the limits allow."""
  before = sys.getrecursionlimit()
  sys.setrecursionlimit(max(before, _RECURSION))
  try:
    yield
  finally:
    sys.setrecursionlimit(before)
