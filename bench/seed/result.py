"""What a scorer returns, and the settings it works under."""

import dataclasses
import importlib.util

VERSION = '5'
KINDS = ('Expression', 'Equation', 'Tuple', 'Interval', 'Numeric')
# Largest relative errors and the points they earn, inclusive. 2025-08: the first public scorer and the paper's table;
# 2025-10: the public scorer since October 2025.
TIERS = {'2025-08': ((0.005, 100), (0.01, 90), (0.02, 80)), '2025-10': ((0.01, 100), (0.02, 90), (0.04, 80))}
# The public repository's last state, of 1 November 2025, has the tiers of October.
TIER_ALIASES = {'2025-11': '2025-10'}


@dataclasses.dataclass(frozen=True)
class Settings:
  """How answers are read and compared.

  tiers: a key of `TIERS` or `TIER_ALIASES`. mode: strict, or compat for the published code. symbols: the item's list
  of symbols as LaTeX text; it decides whether i and e are letters. log_base: what log without a base means, 'e' or
  '10'. hats: whether a hat tells two symbols apart even if only one answer has hats. lone_unit: what to do if only one
  answer has a unit, 'compare' (the numbers as they are, flagged) or 'zero'.
  """

  tiers: str = '2025-10'
  mode: str = 'strict'
  symbols: str = ''
  log_base: str = 'e'
  hats: bool = False
  lone_unit: str = 'compare'

  def __post_init__(self):
    object.__setattr__(self, 'tiers', TIER_ALIASES.get(self.tiers, self.tiers))
    for name, allowed in (
      ('tiers', TIERS),
      ('mode', ('strict', 'compat')),
      ('log_base', ('e', '10')),
      ('lone_unit', ('compare', 'zero')),
    ):
      if getattr(self, name) not in allowed:
        raise ValueError(f'{name}={getattr(self, name)!r}: expected one of {", ".join(allowed)}')
    if self.mode == 'compat' and importlib.util.find_spec('latex2sympy2_extended') is None:
      raise ImportError("mode='compat' needs latex2sympy2_extended: install the extra `compat`")
    if not isinstance(self.symbols, str):
      raise TypeError(f'symbols must be text, not {type(self.symbols).__name__}')


@dataclasses.dataclass(frozen=True)
class Score:
  """points: 0 to 100. status: ok, no_answer, parse_error, timeout, too_large or unsupported.

  test: what decided (text, structure, numeric, symbolic, distance, tolerance; empty if nothing could). flags:
  lone_unit (only one answer had a unit), undecided (no test could tell equal from different), reference (the reference
  could not be read).
  """

  points: float
  status: str
  test: str = ''
  seconds: float = dataclasses.field(default=0.0, compare=False)
  mode: str = 'strict'
  tiers: str = '2025-10'
  version: str = VERSION
  flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Mark:
  """The outcome for one answer or one part of it, before it is wrapped into a `Score`."""

  points: float
  test: str = ''
  status: str = 'ok'
  flags: tuple[str, ...] = ()


def mean(marks: list[Mark]) -> Mark:
  """The plain mean of parts; the test is the one that cost the most points."""
  worst = min(marks, key=lambda m: m.points)
  flags = tuple(sorted({f for m in marks for f in m.flags}))
  points = sum(m.points for m in marks) / len(marks)
  return Mark(100.0 if all(m.points == 100 for m in marks) else points, worst.test, worst.status, flags)
