"""What a server is asked besides the question, what is kept of its reply, and several runs in one table."""

import json

import pytest

from bench import run, table
from tests.bench import chat_server

ROWS = [{'id': i, 'problem': f'{i} + 1?', 'answer': str(i + 1)} for i in range(3)]


def thoughtful(number, body):
  """Every answer is 2, with its thoughts apart."""
  message = {'content': r'\boxed{2}', 'reasoning_content': 'One more than one.'}
  return 200, json.dumps({'choices': [{'message': message, 'finish_reason': 'stop'}]}).encode()


@pytest.fixture
def data(tmp_path):
  path = tmp_path / 'rows.json'
  path.write_text(json.dumps(ROWS))
  return path


def bench(data, out, *flags):
  return run.main(['run', '--task=aime', f'--data={data}', f'--out={out}', '--resamples=100', *flags])


def test_a_system_text_other_fields_and_reasoning(data, tmp_path):
  out = tmp_path / 'out'
  with chat_server.serve(thoughtful) as (url, requests):
    flags = ['--limit_field=max_completion_tokens', '--extra_body={"chat_template_kwargs": {"thinking": false}}']
    assert bench(data, out, f'--model={url}', '--samples=1', '--system=Be brief.', *flags) == 0
  for body in requests:
    assert body['messages'][0] == {'role': 'system', 'content': 'Be brief.'}
    assert body['max_completion_tokens'] == 32_768 and 'max_tokens' not in body
    assert body['chat_template_kwargs'] == {'thinking': False}
  lines = [json.loads(line) for line in (out / 'results.jsonl').read_text().splitlines()]
  assert [line['samples'][0]['reasoning'] for line in lines] == ['One more than one.'] * 3
  report = json.loads((out / 'report.json').read_text())
  assert 'thinking' in report['generation']['extra_body']
  page = (out / 'report.html').read_text()
  for shown in ('1 + 1?', 'right answer: 2', 'Be brief.', 'One more than one.'):
    assert shown in page


@pytest.mark.parametrize('body', ['{', '[1]', '"x"'])
def test_further_fields_have_to_be_an_object(body, data, tmp_path, capsys):
  assert bench(data, tmp_path / 'out', '--model=http://localhost:1/v1', f'--extra_body={body}') == 2
  assert '--extra_body' in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_several_runs_in_one_table(data, tmp_path, capsys):
  for name, text, flags in (('a', '2', []), ('b', '3', []), ('c', '2', ['--set=last_number=true'])):
    answers = tmp_path / f'{name}.jsonl'
    answers.write_text(''.join(json.dumps({'id': str(i), 'text': rf'\boxed{{{text}}}'}) + '\n' for i in range(3)))
    assert bench(data, tmp_path / name, f'--answers={answers}', *flags) == 0
  capsys.readouterr()
  assert table.main(['table', str(tmp_path / 'a'), str(tmp_path / 'b')]) == 0
  head, _, first, second = capsys.readouterr().out.splitlines()
  assert (
    head == '| model | aime |' and first.startswith('| a.jsonl | 33.33 [') and second.startswith('| b.jsonl | 33.33 [')
  )
  assert table.main(['table', str(tmp_path / 'a'), str(tmp_path / 'c'), f'--out={tmp_path / "t.md"}']) == 0
  out = capsys.readouterr().out
  assert '| model | aime * |' in out and '* aime: the runs differ in scorer' in out
  assert (tmp_path / 't.md').read_text() == out
  assert table.main(['table', str(tmp_path)]) == 1
  assert 'no report.json' in capsys.readouterr().err
