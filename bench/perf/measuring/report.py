"""How a measurement prints its rows of figures: as text to read, or a line of JSON each."""

import json
import os
import sys
from collections.abc import Mapping

Row = Mapping[str, str | int | float]


def show(row: Row, *, as_json: bool) -> None:
  """Prints a row: `{"what": …}`, or `what: figure value, figure value`, numbers with four digits.

  `what` names the row; a figure's name ends with its unit.
  """
  if as_json:
    line = json.dumps(row)
  else:
    pairs = [f'{name} {_text(value)}' for name, value in row.items() if name != 'what']
    figures = ', '.join(pairs)
    line = f'{row["what"]}: {figures}'
  print(line, file=sys.stdout, flush=True)


def machine() -> dict[str, str | int | float]:
  """The cores and the load of this machine, which every figure should be read with."""
  return {'what': 'machine', 'cores': os.cpu_count() or 1, 'load average': os.getloadavg()[0]}


def _text(value: str | float) -> str:
  if isinstance(value, float):
    return f'{value:.4g}'
  return str(value)
