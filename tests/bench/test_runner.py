"""Whole runs against a server on this machine: resumed, scored again, compared, reported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import compare, maths, tasks
from bench.harness import model, runner
from bench.harness.task import Sampling
from bench.report import page
from core.serving.client import Retry
from tests.bench.chat_server import completion, question, serve

ROOT = Path(__file__).parents[2]
SAMPLING = Sampling(samples=4, temperature=0.6)


@pytest.fixture
def problems(tmp_path):
  path = tmp_path / 'aime.jsonl'
  rows = [
    {'ID': f'p{i}', 'Problem': f'What is {i} + {i}?', 'Answer': str(2 * i), 'Year': 2024 + i % 2} for i in range(12)
  ]
  path.write_text(''.join(json.dumps(row) + '\n' for row in [*rows, rows[0] | {'ID': 'again'}]))
  return str(path)


def right_half_of_the_time(number, body):
  n = int(question(body).split()[2])
  return completion(f'<think>\\boxed{{5}}</think> \\boxed{{{2 * n + body["seed"] % 2}}}')


def run(url, path, out, reply_model=None, **kwargs):
  task = maths.aime()
  client = model.Endpoint(url, retry=Retry(2, 0.01, 0.01))
  return runner.run(task, task.load(path), str(out), model=client, sampling=SAMPLING, resamples=500, **kwargs)


@pytest.mark.slow
def test_equal_runs_write_equal_results_and_files_score_the_same_without_a_model(problems, tmp_path):
  with serve(right_half_of_the_time) as (url, requests):
    report = run(url, problems, tmp_path / 'a', workers=8)
    run(url, problems, tmp_path / 'b', workers=1)
  results = (tmp_path / 'a' / 'results.jsonl').read_bytes()
  assert results == (tmp_path / 'b' / 'results.jsonl').read_bytes()
  assert len(requests) == 2 * 48
  assert 0.2 < report['metrics']['accuracy']['value'] < 0.8
  assert report['metrics']['pass@4']['value'] > report['metrics']['pass@1']['value']
  assert report['data']['skipped'] == [{'where': 'id again', 'reason': 'repeats:p0'}]
  task = maths.aime()
  for name in ('results.jsonl', 'answers.jsonl'):
    again = runner.run(
      task, task.load(problems), str(tmp_path / 'c'), answers=str(tmp_path / 'a' / name), resamples=500
    )
    assert (tmp_path / 'c' / 'results.jsonl').read_bytes() == results
    assert again['metrics'] == report['metrics']


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_asks_nothing_twice(problems, tmp_path):
  breaking = lambda n, body: (500, b'') if n > 20 else right_half_of_the_time(n, body)
  with serve(breaking) as (url, _), pytest.raises(runner.TooManyFailures, match='in a row failed'):
    run(url, problems, tmp_path / 'a', workers=2)
  log = tmp_path / 'a' / 'answers.jsonl'
  assert len(log.read_text().splitlines()) == 1 + 20
  assert not (tmp_path / 'a' / 'results.jsonl').exists()
  log.write_bytes(log.read_bytes() + b'{"id": "p3", "te')
  with serve(right_half_of_the_time) as (url, requests):
    run(url, problems, tmp_path / 'a')
    assert len(requests) == 48 - 20
    run(url, problems, tmp_path / 'whole')
    with pytest.raises(ValueError, match='seed=0, this run has 1'):
      run(url, problems, tmp_path / 'a', seed=1)
  assert (tmp_path / 'a/results.jsonl').read_bytes() == (tmp_path / 'whole/results.jsonl').read_bytes()


def test_an_unusable_answer_is_asked_again_up_to_the_task_s_bound(tmp_path):
  path = tmp_path / 'p.csv'
  cell = json.dumps(
    {
      'Primary Categories': 'Art',
      'Secondary Categories': 'Other',
      'Subjects': 'Animal',
      'Sentence Structure': 'Descriptive',
      'Testpoints': ['Style'],
      'Testpoint Description': ['x'],
    }
  )
  path.write_text(
    'index,prompt_en,sub_dims_en\n'
    + ''.join(f'{i},a prompt {i}!,"{cell.replace(chr(34), chr(34) * 2)}"\n' for i in range(2))
  )
  from PIL import Image

  for i in range(2):
    Image.new('RGB', (8, 8), (i, 0, 0)).save(tmp_path / f'{i}_0.png')
  task = tasks.make('unigenbench', [f'images={tmp_path}', 'per_prompt=1'])

  def never(n, body):
    return completion('<score>[1]</score>' if 'prompt 0!' in question(body) and n > 3 else 'well')

  with serve(never) as (url, requests):
    report = runner.run(
      task, task.load(str(path)), str(tmp_path / 'out'), model=model.Endpoint(url), workers=1, resamples=200
    )
    assert report['statuses'] == {'ok': 1, 'unparsed': 1}
    assert len(requests) == 4 + 11
    Image.new('RGB', (8, 8), (9, 9, 9)).save(tmp_path / '1_0.png')
    with pytest.raises(ValueError, match='data='):
      runner.run(task, task.load(str(path)), str(tmp_path / 'out'), model=model.Endpoint(url))
  assert (tmp_path / 'out' / 'thumbnails' / '0_0.jpg').is_file()


@pytest.mark.slow
def test_reports_escape_what_models_write(problems, tmp_path):
  evil = '<script>alert(1)</script>|\n# {{ 7 * 7 }} \\boxed{<img src=x onerror=alert(2)>}'
  with serve(lambda n, body: completion(evil)) as (url, _):
    run(url, problems, tmp_path / 'a')
  page = (tmp_path / 'a' / 'report.html').read_text()
  assert '<script>alert' not in page and '<img src=x' not in page
  assert '&lt;script&gt;alert(1)' in page and '{{ 7 * 7 }}' in page
  assert (tmp_path / 'a' / 'curves.png').read_bytes().startswith(b'\x89PNG')


def test_hostile_answer_files(problems, tmp_path):
  path = tmp_path / 'answers.jsonl'
  path.write_bytes(
    b'\xef\xbb\xbf{"id": "p1", "text": "\\\\boxed{2}"}\r\n'
    b'{"id": "p2", "text": ""}\n{"id": "p3", "text": 5}\n{"id": null, "text": "x"}\n'
    b'{"id": "p4", "text": "\xff\\u0000\\ud800 \\\\boxed{8}"}\n'
    b'{"id": "unknown", "text": "x"}\n'
    b'{"id": "p5", "text": "\\\\boxed{10}", "reward": NaN}\n'
    b'{"id": "p6", "text": "' + b'\\\\boxed{' * 140_000 + b'"}\n{"id": "p7", "te'
  )
  task = maths.aime()
  report = runner.run(task, task.load(problems), str(tmp_path / 'out'), answers=str(path), resamples=200)
  assert report['metrics']['accuracy']['value'] == 3 / 12
  assert report['statuses'] == {'no_answer': 2, 'ok': 3, 'request_failed': 7}
  assert report['generation']['unusable_lines'] == 3 and report['generation']['unknown_ids'] == 1
  json.loads((tmp_path / 'out' / 'report.json').read_text())
  for line in (tmp_path / 'out' / 'results.jsonl').read_text().splitlines():
    json.loads(line)
  (tmp_path / 'none.jsonl').write_text('{"id": "zzz", "text": "x"}\n')
  with pytest.raises(ValueError, match='none of its 1 lines'):
    runner.run(task, task.load(problems), str(tmp_path / 'no'), answers=str(tmp_path / 'none.jsonl'))
  assert not (tmp_path / 'no').exists()


@pytest.mark.slow
def test_comparison_pairs_the_questions(problems, tmp_path):
  always = lambda n, body: completion(f'\\boxed{{{2 * int(question(body).split()[2])}}}')
  with serve(right_half_of_the_time) as (url, _):
    run(url, problems, tmp_path / 'half')
  with serve(always) as (url, _):
    run(url, problems, tmp_path / 'all')
  all_right, half = compare.read(str(tmp_path / 'all')), compare.read(str(tmp_path / 'half/results.jsonl'))
  found = compare.compare(all_right, half, resamples=500)
  difference = found['metrics']['accuracy']
  assert difference['low'] > 0 and difference['p'] < 0.05 and found['differs'] == []
  assert compare.compare(all_right, all_right, resamples=500)['metrics']['accuracy']['value'] == 0
  with pytest.raises(ValueError, match='expected one of accuracy'):
    compare.compare(all_right, half, metrics=['f1'])
  assert 'a - b' in compare.text(found)
  wrong = [key for key, item in half.items.items() if item.scores['accuracy'][0] < 1]
  assert sorted(row['id'] for row in found['flipped']) == sorted(wrong)
  assert all(row['a'] == 1 and row['b'] < 1 for row in found['flipped'])
  assert compare.compare(half, half, resamples=500)['flipped'] == []


def test_no_zero_is_negative():
  estimate = {'value': -1e-9, 'low': -0.0, 'high': -1e-5}
  assert page.number(estimate, 100.0) == '0.00 [0.00, 0.00]'


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (['rule=odd'], 'expected one of strict'),
    (['rool=strict'], 'has the options'),
    (['guess=perhaps'], 'true or false'),
    (['judgements=x.jsonl'], 'for rule=vlmevalkit'),
  ],
)
def test_wrong_settings_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    tasks.make('mmmu', settings)


def cli(*args):
  done = subprocess.run([sys.executable, '-m', *args], cwd=ROOT, capture_output=True, text=True, timeout=120)
  return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_command_line(problems, tmp_path):
  with serve(right_half_of_the_time) as (url, _):
    code, text = cli(
      'bench.run',
      '--task=aime',
      f'--data={problems}',
      f'--model={url}',
      '--samples=2',
      '--limit=3',
      f'--out={tmp_path / "out"}',
      '--resamples=200',
    )
  assert code == 0 and 'accuracy' in text and 'answer/s' in text, text
  code, text = cli('bench.compare', str(tmp_path / 'out'), str(tmp_path / 'out'))
  assert code == 0 and 'WARNING' not in text, text
  code, text = cli('bench.run', '--task=aime', f'--data={tmp_path}/none.json', '--model=http://127.0.0.1:9/v1')
  assert code == 1 and 'none.json: no such file' in text and 'Traceback' not in text
  code, text = cli('bench.run', '--task=aime', f'--data={problems}')
  assert code == 2 and 'exactly one of --model and --answers' in text and 'Traceback' not in text
