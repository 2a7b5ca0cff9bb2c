"""Runs that are refused, interrupted, started twice or damaged: nothing finished is lost, nothing hangs."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench import maths
from bench.harness import model, runner
from bench.harness.store import Log, locked
from bench.harness.task import Sampling
from core.serving.client import RequestFailed, Retry
from tests.bench.chat_server import completion, serve

ROOT = Path(__file__).parents[2]
RIGHT = completion('\\boxed{4}')


@pytest.fixture
def problems(tmp_path):
  path = tmp_path / 'p.jsonl'
  path.write_text(''.join(json.dumps({'id': f'p{i}', 'problem': f'{i}?', 'answer': '4'}) + '\n' for i in range(40)))
  return str(path)


def run(url, problems, out, workers=1):
  task = maths.aime()
  client = model.Endpoint(url, retry=Retry(2, 0.01, 0.01))
  settings = {'sampling': Sampling(samples=1), 'resamples': 200, 'workers': workers}
  return runner.run(task, task.load(problems), str(out), model=client, **settings)


@pytest.mark.parametrize(('status', 'least'), [(401, 1), (404, 1), (400, 2), (422, 2)])
def test_a_server_that_refuses_is_not_asked_every_question(status, least, problems, tmp_path):
  with serve(lambda n, body: (status, b'no')) as (url, requests):
    with pytest.raises(RequestFailed, match=f'status {status}'):
      run(url, problems, tmp_path / 'out')
    assert least <= len(requests) < 20  # of 40: some are on their way while the first answers are read


def test_one_question_that_is_refused_does_not_end_a_run(problems, tmp_path):
  with serve(lambda n, body: (400, b'too long') if n % 3 == 1 else RIGHT) as (url, requests):
    report = run(url, problems, tmp_path / 'out')
  assert len(requests) == 40 and report['statuses'] == {'ok': 26, 'request_failed': 14}


def test_a_folder_is_one_run_s_at_a_time(problems, tmp_path):
  with serve(lambda n, body: RIGHT) as (url, requests):
    with locked(tmp_path / 'out'), pytest.raises(ValueError, match='another run'):
      run(url, problems, tmp_path / 'out')
    assert not requests
    run(url, problems, tmp_path / 'out')


def test_damaged_lines_cost_only_themselves(problems, tmp_path, capsys):
  with serve(lambda n, body: RIGHT) as (url, requests):
    run(url, problems, tmp_path / 'out')
    results = (tmp_path / 'out' / 'results.jsonl').read_bytes()
    log = tmp_path / 'out' / 'answers.jsonl'
    lines = log.read_bytes().split(b'\n')
    lines[5], lines[9], lines[12] = lines[5][:20] + lines[6], b'\xff\x00', b'{"id": "p3", "sample": 0}'
    log.write_bytes(b'\n'.join(lines))
    run(url, problems, tmp_path / 'out')
    assert len(requests) == 40 + 3
  assert '2 damaged lines are skipped (6, 10)' in capsys.readouterr().err
  assert (tmp_path / 'out' / 'results.jsonl').read_bytes() == results


def test_a_log_whose_settings_cannot_be_read_is_refused(tmp_path):
  (tmp_path / 'log').write_bytes(b'{"model": "m\n{"id": "a"}\n')
  with pytest.raises(ValueError, match='first line'):
    Log(tmp_path / 'log', {'model': 'm'})


def test_two_logs_of_one_file_write_whole_lines(tmp_path):
  with Log(tmp_path / 'log', {'m': 1}) as a, Log(tmp_path / 'log', {'m': 1}) as b:
    for i in range(20):
      (a, b)[i % 2].append({'i': i, 'text': 'x' * 10_000})
  assert [e['i'] for e in Log(tmp_path / 'log', {'m': 1}).entries] == list(range(20))


@pytest.mark.slow
def test_one_interrupt_ends_a_run_whose_server_hangs(problems, tmp_path):
  release, hanging = threading.Event(), threading.Event()

  def reply(number, body):
    if number <= 3:
      return RIGHT
    hanging.set()
    return release.wait(300) and None

  with serve(reply) as (url, _):
    args = [
      '--task=aime',
      f'--data={problems}',
      f'--model={url}',
      f'--out={tmp_path / "out"}',
      '--samples=1',
      '--workers=1',
    ]
    command = [sys.executable, '-m', 'bench.run', *args]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
      assert hanging.wait(120)
      process.send_signal(signal.SIGINT)
      assert process.wait(60) == 130
    finally:
      process.kill()
      release.set()
  assert len((tmp_path / 'out' / 'answers.jsonl').read_text().splitlines()) == 1 + 3


def test_none_of_n_has_an_interval(problems, tmp_path):
  with serve(lambda n, body: completion('\\boxed{5}')) as (url, _):
    found = run(url, problems, tmp_path / 'out')['metrics']['accuracy']
  assert found['value'] == found['low'] == 0 and found['high'] == pytest.approx(0.0876, abs=1e-4)


def test_every_result_says_under_which_settings_it_was_scored(problems, tmp_path):
  answered = tmp_path / 'answers.jsonl'
  answered.write_text('{"id": "p3", "text": "The answer is 4"}\n')
  hashes = {}
  for last_number in (False, True):
    task = maths.aime(last_number=last_number)
    out = tmp_path / str(last_number)
    report = runner.run(task, task.load(problems), str(out), answers=str(answered), resamples=200)
    lines = [json.loads(line) for line in (out / 'results.jsonl').read_text().splitlines()]
    assert {line['settings_hash'] for line in lines} == {report['settings_hash']}
    assert report['settings_hash'] in (out / 'report.html').read_text()
    hashes[last_number] = report['settings_hash']
  assert hashes[False] != hashes[True]
