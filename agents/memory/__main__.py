"""Inspects and edits a case bank, and trains a selector on it.

python -m agents.memory list cases.sqlite                       one line for each case
python -m agents.memory show cases.sqlite 12                    all fields of a case
python -m agents.memory edit cases.sqlite 12 --reward=0 --quarantined=true
python -m agents.memory delete cases.sqlite 12
python -m agents.memory import cases.sqlite memory.jsonl        adds the cases of a JSON-lines file, in either form
python -m agents.memory export cases.sqlite memory.jsonl --form=labelled
python -m agents.memory snapshot cases.sqlite copy.sqlite       copies the bank to a new file
python -m agents.memory train cases.sqlite selector/ --encoder=FOLDER
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from agents.memory import CaseBank, SentenceEncoder, export_jsonl, fitting, import_jsonl, selector
from agents.memory.cases import Case
from agents.memory.jsonl import FORMS
from core.launch import command
from core.launch.fields import field

# Command → (the words after it, its flags).
COMMANDS = {
  'list': (('bank',), ()),
  'show': (('bank', 'case'), ()),
  'edit': (('bank', 'case'), ('task', 'plan', 'reward', 'quarantined')),
  'delete': (('bank', 'case'), ()),
  'import': (('bank', 'file'), ()),
  'export': (('bank', 'file'), ('form',)),
  'snapshot': (('bank', 'file'), ()),
  'train': (('bank', 'folder'), ('encoder', 'epochs', 'share')),
}


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags; each belongs to one command."""

  task: str | None = field(None, 'edit: the new task')
  plan: str | None = field(None, 'edit: the new plan')
  reward: float | None = field(None, 'edit: the new reward')
  quarantined: bool | None = field(None, 'edit: whether the case is kept but never retrieved')
  form: Literal[tuple(FORMS)] | None = field(None, 'export: the form of the lines; by default plain')
  encoder: str | None = field(None, 'train: folder of a sentence encoder; by default words are hashed')
  epochs: int | None = field(None, 'train: passes over the pairs; by default 10', low=1)
  share: float | None = field(None, 'train: share of the tasks held out for validation; by default 0.1', low=0, high=1)
  words: tuple[str, ...] = field((), 'the command and its operands', positional=True)

  def __post_init__(self):
    name = self.words[0] if self.words else ''
    if name not in COMMANDS:
      raise ValueError(f'{name!r}: expected a command, one of {", ".join(COMMANDS)}')
    words, allowed = COMMANDS[name]
    if len(self.words) != 1 + len(words):
      usage = ' '.join(word.upper() for word in words)
      raise ValueError(f'{name}: got {len(self.words) - 1} words after it, expected {usage}')
    for f in dataclasses.fields(self):
      if f.name not in ('words', *allowed) and getattr(self, f.name) is not None:
        raise ValueError(f'--{f.name}: {name} does not take it')
    if 'case' in words and not self.words[2].isdigit():
      raise ValueError(f'{self.words[2]!r}: expected the number of a case')


def line(case: Case) -> str:
  """A case in one line."""
  state = 'quarantined'
  if not case.quarantined:
    state = f'reward {case.reward:g}'
  task = ' '.join(case.task.split())
  return f'{case.id:6}  {state:12}  {case.run:20.20}  {task[:100]}'


def apply(bank: CaseBank, options: Options) -> str:
  """Runs the command; returns the text to print. Raises KeyError for a case that does not exist."""
  name, _, *operands = options.words
  if name == 'list':
    return '\n'.join(map(line, bank.cases()))
  if name in ('show', 'edit', 'delete'):
    return _apply_to_case(bank, name, int(operands[0]), options)
  path = Path(operands[0])
  if name == 'import':
    result = import_jsonl(bank, path)
    skipped = [f'line {n} is skipped: {reason}' for n, reason in result.skipped]
    repeated = []
    if result.repeats:
      repeated = [f'{result.repeats} of them repeat the task and the plan of an earlier one']
    return '\n'.join([f'{result.cases} cases', *repeated, *skipped])
  if name == 'export':
    count = export_jsonl(bank, path, form=options.form or 'plain')
    return f'{count} cases'
  if name == 'snapshot':
    return f'digest {bank.snapshot(path)}'
  share = 0.1 if options.share is None else options.share
  return train(bank, path, epochs=options.epochs or 10, share=share)


def _apply_to_case(bank: CaseBank, name: str, number: int, options: Options) -> str:
  """As `apply`, for the commands on one case."""
  if name == 'show':
    case = dataclasses.asdict(bank.get(number))
    return json.dumps(case, ensure_ascii=False, indent=2)
  if name == 'delete':
    bank.delete(number)
    return f'case {number} is deleted'
  _, flags = COMMANDS['edit']
  changes = {flag: getattr(options, flag) for flag in flags}
  return line(bank.update(number, **changes))


def train(bank: CaseBank, folder: Path, *, epochs: int, share: float) -> str:
  """Trains a selector on the bank's uses and saves it; returns a sentence on its validation."""
  config = selector.Config(width=bank.encoder.width)
  pairs = fitting.pairs_of(bank.uses(), bank.vectors)
  state, validation = fitting.fit(pairs, config, epochs=epochs, share=share)
  selector.save(folder, config, state)
  about = f'{selector.version(state)}, made for vectors of {bank.encoder.id}'
  if validation is None:
    return f'{about}; no task was held out'
  auc = 'not defined'
  if validation.auc is not None:
    auc = f'{validation.auc:.3f}'
  figures = f'accuracy {validation.accuracy:.3f}, F1 {validation.f1:.3f}, AUC {auc}'
  return f'{about}; on {validation.pairs} pairs of held-out tasks {figures}'


def work(options: Options) -> None:
  """Opens the bank and prints the output of the command. Raises ValueError or OSError with one clear line."""
  name, path, *_ = options.words
  if name != 'import' and not Path(path).is_file():
    raise FileNotFoundError(f'{path}: no such file')
  encoder = None
  if options.encoder:
    encoder = SentenceEncoder.load(options.encoder)
  with CaseBank(path, encoder) as bank:
    try:
      print(apply(bank, options))
    except KeyError as error:
      raise ValueError(error.args[0]) from error


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
