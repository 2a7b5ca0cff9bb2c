"""Looks after a case bank.

python -m agents.memory list cases.sqlite
python -m agents.memory show cases.sqlite 12
python -m agents.memory edit cases.sqlite 12 --reward=0 --quarantined=true
python -m agents.memory delete cases.sqlite 12
python -m agents.memory import cases.sqlite memory.jsonl
python -m agents.memory export cases.sqlite memory.jsonl --form=labelled
python -m agents.memory snapshot cases.sqlite copy.sqlite
python -m agents.memory train cases.sqlite selector/ --encoder=FOLDER
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from agents.memory import CaseBank, SentenceEncoder, export_jsonl, import_jsonl, selector
from agents.memory.cases import Case
from agents.memory.jsonl import FORMS


def parser() -> argparse.ArgumentParser:
  """The command line."""
  top = argparse.ArgumentParser(
    'agents.memory', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  commands = top.add_subparsers(dest='command', required=True, metavar='command')

  def command(name, meaning, *others):
    sub = commands.add_parser(name, help=meaning)
    sub.add_argument('bank', help='the sqlite file')
    for other, kind, what in others:
      sub.add_argument(other, type=kind, help=what)
    return sub

  case = ('case', int, 'id of a case')
  command('list', 'one line a case')
  command('show', 'everything about a case', case)
  edit = command('edit', 'changes a case', case)
  edit.add_argument('--task')
  edit.add_argument('--plan')
  edit.add_argument('--reward', type=float)
  edit.add_argument('--quarantined', choices=('true', 'false'), help='kept, but never found')
  command('delete', 'removes a case', case)
  command('import', 'adds the cases of a JSON-lines file', ('file', Path, 'in either form'))
  export = command('export', 'writes the cases as JSON lines', ('file', Path, 'to write'))
  export.add_argument('--form', choices=FORMS, default='plain')
  command('snapshot', 'copies the bank', ('file', Path, 'a new file'))
  train = command('train', 'trains a selector on the recorded uses', ('folder', Path, 'to write'))
  train.add_argument('--encoder', help='folder of a sentence encoder; default: words are hashed')
  train.add_argument('--epochs', type=int, default=10)
  train.add_argument('--share', type=float, default=0.1, help='share of the tasks that validates')
  return top


def line(case: Case) -> str:
  """A case in one line."""
  state = 'quarantined' if case.quarantined else f'reward {case.reward:g}'
  return f'{case.id:6}  {state:12}  {case.run:20.20}  {" ".join(case.task.split())[:100]}'


def carry_out(bank: CaseBank, a: argparse.Namespace) -> str:
  """Does what the command says; returns what to print."""
  if a.command == 'list':
    return '\n'.join(map(line, bank.cases()))
  if a.command == 'show':
    return json.dumps(dataclasses.asdict(bank.get(a.case)), ensure_ascii=False, indent=2)
  if a.command == 'edit':
    hidden = None if a.quarantined is None else a.quarantined == 'true'
    return line(bank.update(a.case, task=a.task, plan=a.plan, reward=a.reward, quarantined=hidden))
  if a.command == 'delete':
    bank.delete(a.case)
    return f'case {a.case} is deleted'
  if a.command == 'import':
    got = import_jsonl(bank, a.file)
    return '\n'.join([f'{got.cases} cases', *(f'line {n} is passed over: {reason}' for n, reason in got.skipped)])
  if a.command == 'export':
    return f'{export_jsonl(bank, a.file, form=a.form)} cases'
  if a.command == 'snapshot':
    return f'digest {bank.snapshot(a.file)}'
  return train(bank, a.folder, epochs=a.epochs, share=a.share)


def train(bank: CaseBank, folder: Path, *, epochs: int, share: float) -> str:
  """Trains a selector on the bank's uses and saves it; returns its validation in words."""
  config = selector.Config(width=bank.encoder.width)
  state, seen = selector.fit(selector.pairs_of(bank.uses(), bank.vectors), config, epochs=epochs, share=share)
  selector.save(folder, config, state)
  about = f'{selector.version(state)}, made for vectors of {bank.encoder.id}'
  if seen is None:
    return f'{about}; no task was held out'
  auc = 'not defined' if seen.auc is None else f'{seen.auc:.3f}'
  return f'{about}; on {seen.pairs} pairs of held-out tasks accuracy {seen.accuracy:.3f}, F1 {seen.f1:.3f}, AUC {auc}'


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the program; returns its exit status."""
  a = parser().parse_args(argv)
  try:
    if a.command != 'import' and not Path(a.bank).is_file():
      raise FileNotFoundError(f'{a.bank}: no such file')
    encoder = SentenceEncoder.load(a.encoder) if getattr(a, 'encoder', None) else None
    with CaseBank(a.bank, encoder) as bank:
      print(carry_out(bank, a))
    return 0
  except (ValueError, KeyError, OSError) as error:
    print(f'error: {error.args[0] if isinstance(error, KeyError) else error}', file=sys.stderr)
    return 1


if __name__ == '__main__':
  sys.exit(main())
