"""The tables of docs/rl.md say what the registries hold."""

import pathlib

from rl.advantages import ADVANTAGES
from rl.losses import RULES
from rl.rewards import REWARDS

PAGE = (pathlib.Path(__file__).parents[2] / 'docs/rl.md').read_text(encoding='utf-8')


def table(name):
  """The cells of the table whose first column is headed NAME[…], by row name."""
  lines = iter(PAGE.splitlines())
  next(line for line in lines if line.startswith(f'| `{name}[…]`'))
  next(lines)
  rows = {}
  for line in lines:
    if not line.startswith('|'):
      return rows
    first, *rest = (cell.strip() for cell in line.strip('|').split('|'))
    rows[first.strip('`')] = rest
  return rows


def test_advantages():
  said = lambda flag: 'yes' if flag else ''
  want = {n: [e.meaning, said(e.per_token), said(e.whole_batch), said(e.by_component)] for n, e in ADVANTAGES.items()}
  assert table('ADVANTAGES') == want


def test_rewards():
  assert table('REWARDS') == {name: [r.meaning, ', '.join(r.modules)] for name, r in REWARDS.items()}


def test_rules():
  rows = table('RULES')
  assert {n: (r[0], r[2]) for n, r in rows.items()} == {
    n: (f'`{r.surrogate}`', f'`{r.aggregation}`') for n, r in RULES.items()
  }
