"""The command line: one question from flags to trace, and lines that say what is wrong."""

import io
import json
import sys

import pytest

from agents import run, tool_servers
from agents.memory import CaseBank
from agents.planner import trace
from agents.planner.episode import Episode, Event
from tests.bench.chat_server import serve

PLAN = json.dumps({'plan': [{'id': 1, 'description': 'read total.csv'}]})


def said(text='', calls=()):
  listed = [
    {'id': f'c{i}', 'type': 'function', 'function': {'name': name, 'arguments': arguments}}
    for i, (name, arguments) in enumerate(calls)
  ]
  message = {'content': text or None, **({'tool_calls': listed} if calls else {})}
  usage = {'prompt_tokens': 10, 'completion_tokens': 5}
  return 200, json.dumps({'choices': [{'message': message, 'finish_reason': 'stop'}], 'usage': usage}).encode()


def replies(number, body):
  last = body['messages'][-1]
  if body['messages'][0]['content'].startswith('You carry out'):
    if last['role'] == 'tool':
      return said(f'the total is {last["content"].split("|")[-2].strip()}')
    return said(calls=[('read_document', '{"path": "total.csv"}')])
  return said('FINAL ANSWER: 42' if 'results' in last['content'] else PLAN)


def test_a_question_with_a_file_from_flags_to_trace_and_case(tmp_path, capsys):
  (tmp_path / 'total.csv').write_text('name,total\nall,42\n')
  with serve(replies) as (url, requests):
    status = run.main(
      [
        'run',
        'What is the <b>total</b>?',
        f'--model={url}',
        f'--attach={tmp_path / "total.csv"}',
        '--tools=documents',
        f'--out={tmp_path / "out"}',
        f'--bank={tmp_path / "bank.sqlite"}',
        '--feedback=right',
        '--task_id=t1',
      ]
    )
  printed = capsys.readouterr()
  assert (status, printed.out) == (0, '42\n')
  assert 'read_document' in printed.err and 'Task 1' in printed.err
  page = (tmp_path / 'out' / 'trace.html').read_text()
  assert 'What is the &lt;b&gt;total&lt;/b&gt;?' in page and '<b>total' not in page
  episode = json.loads((tmp_path / 'out' / 'episode.json').read_text())
  assert episode['subtasks'][0]['calls'][0]['result'] == '| name | total |\n| --- | --- |\n| all | 42 |'
  assert (episode['prompt_tokens'], episode['reply_tokens']) == (10 * len(requests), 5 * len(requests))
  tools = [r for r in requests if 'tools' in r]
  assert [t['function']['name'] for t in tools[0]['tools']] == ['list_documents', 'read_document', 'view_image']
  with CaseBank(tmp_path / 'bank.sqlite') as bank:
    assert [(c.key, c.reward, json.loads(c.plan)['plan'][0]['id']) for c in bank.cases()] == [('t1', 1.0, 1)]


def test_a_model_that_is_not_there_is_one_line(tmp_path, capsys):
  status = run.main(
    ['run', 'q', '--model=http://127.0.0.1:9/v1', '--model_name=m', f'--out={tmp_path}', '--timeout=1', '--seconds=0.5']
  )
  assert status == 1 and 'no answer' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    ([], 'expected one'),
    (['a', 'b'], '2 questions'),
    ([' '], 'expected one'),
    (['q'], '--model=URL is needed'),
    (['q', '--model=folder'], 'expected a URL'),
    (['q', '--model=http://x', '--tools=shell'], '--tools=shell'),
    (['q', '--model=http://x', '--tools=search'], 'one of --searx and --corpus'),
    (['q', '--model=http://x', '--attach=a'], 'add documents to --tools'),
    (['q', '--model=http://x', '--read=q'], '--selector'),
    (['q', '--model=http://x', '--feedback=right'], '--bank'),
    (['q', '--model=http://x', '--k=-1'], 'k'),
    (['q', '--modell=http://x'], 'modell'),
  ],
)
def test_bad_flags_are_one_line_and_status_2(argv, message, capsys):
  assert run.main(['run', *argv]) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1 and message in lines[0]


def test_help_lists_every_flag(capsys):
  assert run.main(['run', '--help']) == 0
  out = capsys.readouterr().out
  assert all(f'--{name}' in out for name in ('model', 'tools', 'bank', 'feedback', 'seconds'))


def episode(text):
  events = (Event(0.0, 'planner', text[:200], text), Event(1.0, 'answer', 'answered', text))
  return Episode('', text, text, 'answered', '', (), 'none', (text,), (), events, 1, 1, 1.0)


def test_what_others_wrote_can_neither_script_the_page_nor_rewrite_the_terminal():
  hostile = '</pre><script>alert(1)</script>{{ 7 * 7 }}\x1b[2J\r\n'
  page = trace.html(episode(hostile))
  assert '<script>' not in page and '49' not in page and '&lt;script&gt;' in page
  shown = io.StringIO()
  trace.Printer(shown)(Event(0.0, 'observation', hostile, hostile * 100))
  assert '\x1b' not in shown.getvalue() and shown.getvalue().count('\n') == 1
  assert len(trace.html(episode('x' * 10**6))) < 2 * 10**6 + 100_000  # question and answer whole, texts cut


def test_servers_are_modules_of_ours_and_names_do_not_clash(tmp_path):
  config = tmp_path / 'mcp.json'
  config.write_text('{"mcpServers": {"python": {"command": "x"}}}')
  ours = tool_servers.servers(('python',), tmp_path)
  with pytest.raises(ValueError, match=r"\['python'\] are named like"):
    tool_servers.with_others(ours, str(config))
  assert ours['python'].args == ['-m', 'agents.mcp.servers.python'] and ours['python'].command == sys.executable
