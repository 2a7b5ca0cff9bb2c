"""The command line that looks after a bank."""

import json

import pytest

from agents.memory import CaseBank, selector
from agents.memory.__main__ import main


def bank(tmp_path, n=12):
  path = tmp_path / 'bank.sqlite'
  with CaseBank(path) as bank:
    cases = [bank.add(f'task {i}', f'plan {i}', i % 2, key=f'k{i}') for i in range(n)]
    for i in range(40):
      bank.add_uses(f'query {i}', cases[i % n : i % n + 1], float(i % 2), key=f'q{i}')
  return str(path)


def test_a_case_is_listed_edited_deleted_and_the_bank_copied(tmp_path, capsys):
  path = bank(tmp_path)
  assert main(['memory', 'list', path]) == 0 and len(capsys.readouterr().out.splitlines()) == 12
  assert main(['memory', 'edit', path, '3', '--reward=1', '--plan=new', '--quarantined=true']) == 0
  assert 'quarantined' in capsys.readouterr().out
  assert main(['memory', 'show', path, '3']) == 0
  shown = json.loads(capsys.readouterr().out)
  assert (shown['reward'], shown['plan'], shown['quarantined']) == (1.0, 'new', True)
  assert main(['memory', 'delete', path, '3']) == main(['memory', 'snapshot', path, str(tmp_path / 'copy')]) == 0
  assert main(['memory', 'export', str(tmp_path / 'copy'), str(tmp_path / 'c.jsonl'), '--form=labelled']) == 0
  assert main(['memory', 'import', str(tmp_path / 'new.sqlite'), str(tmp_path / 'c.jsonl')]) == 0
  with CaseBank(path) as one, CaseBank(tmp_path / 'new.sqlite') as two:
    assert [c.task for c in one.cases()] == [c.task for c in two.cases()] and len(two) == 11


def test_a_selector_is_trained_and_saved(tmp_path, capsys):
  assert main(['memory', 'train', bank(tmp_path), str(tmp_path / 's'), '--epochs=2', '--share=0.3']) == 0
  out = capsys.readouterr().out
  assert 'hash-256' in out and 'held-out tasks accuracy' in out
  config, state = selector.load(tmp_path / 's')
  assert config.width == 256 and selector.version(state) in out


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['show', '{bank}', '99'], 'case 99'),
    (['list', 'none.sqlite'], 'no such file'),
    (['edit', '{bank}', '1', '--reward=7'], 'reward 7'),
    (['import', '{bank}', 'none.jsonl'], 'none.jsonl'),
    (['snapshot', '{bank}', '{bank}'], 'never written over'),
  ],
)
def test_what_cannot_be_done_is_one_line(argv, message, tmp_path, capsys):
  path = bank(tmp_path)
  assert main(['memory', *(a.format(bank=path) for a in argv)]) == 1
  error = capsys.readouterr().err
  assert message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    ([], 'expected a command'),
    (['look', 'x'], "'look'"),
    (['show', 'x'], 'BANK CASE'),
    (['show', 'x', 'y'], "'y': expected the number"),
    (['list', 'x', '--reward=1'], '--reward: list does not take it'),
    (['train', 'x', 'y', '--share=2'], 'share=2'),
    (['export', 'x', 'y', '--form=odd'], "'odd' is not"),
  ],
)
def test_bad_usage_is_status_2_and_one_line(argv, message, capsys):
  assert main(['memory', *argv]) == 2
  error = capsys.readouterr().err
  assert message in error and len(error.splitlines()) == 1
