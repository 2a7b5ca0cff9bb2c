"""Agents, benchmarks and judges against our own server, as against any endpoint; its device is a script."""

import json

import pytest

from agents import run as agent
from bench import maths
from bench.harness import model, runner
from bench.harness.judge import OK, Judge
from bench.harness.task import Sampling
from bench.search import qa
from tests.core.serving.chat import scripted

PLAN = json.dumps({'plan': [{'id': 1, 'description': 'read total.csv'}]})
CALL = '<tool_call>\n{"name": "read_document", "arguments": {"path": "total.csv"}}\n</tool_call>'


def answer(prompt, sample):
  """What the planner, the executor, a judge or a solver says."""
  turns = prompt.split('<|im_start|>') if '<|im_start|>' in prompt else [prompt]
  text = turns[-1]
  if 'You carry out' in text:
    return 'the total is 42' if 'tool\n' in text.rsplit('Task', 1)[-1] and '42' in text else CALL
  if 'judgement' in text:
    return '{"rationale": "same", "judgement": "correct"}'
  if 'problem-4' in text:
    return '\\boxed{4}'
  return 'FINAL ANSWER: 42' if 'the total is' in text else PLAN


@pytest.fixture(scope='module')
def url():
  sizes = {'slots': 8, 'pages': 20_000, 'context': 1 << 16, 'segment': 32}
  with scripted.serving(answer, token=None, places=64, **sizes) as (address, _):
    yield address


@pytest.mark.slow
def test_an_agent_plans_and_calls_tools(url, tmp_path, capsys):
  (tmp_path / 'total.csv').write_text('name,total\nall,42\n')
  flags = [f'--model={url}', f'--attach={tmp_path / "total.csv"}', '--tools=documents', f'--out={tmp_path / "out"}']
  assert agent.main(['run', 'What is the total?', *flags]) == 0
  printed = capsys.readouterr()
  assert printed.out == '42\n' and 'read_document' in printed.err
  episode = json.loads((tmp_path / 'out' / 'episode.json').read_text())
  assert json.dumps(episode).count('read_document') > 0


def test_a_benchmark_runs(url, tmp_path):
  problems = tmp_path / 'p.jsonl'
  problems.write_text(
    ''.join(json.dumps({'id': f'p{i}', 'problem': f'problem-4 {i}?', 'answer': '4'}) + '\n' for i in range(9))
  )
  task, client = maths.aime(), model.Endpoint(url)
  sampling = Sampling(samples=2, temperature=0.6, top_k=20, max_tokens=64)
  settings = {'sampling': sampling, 'resamples': 100, 'workers': 4}
  report = runner.run(task, task.load(str(problems)), str(tmp_path / 'out'), model=client, **settings)
  assert report['statuses'] == {'ok': 18} and '"accuracy"' in json.dumps(report)


def test_a_judge_decides(url, tmp_path):
  fields = {'question': 'Who?', 'accepted': 'Ann', 'prediction': 'Anne'}
  judge = Judge(model.Endpoint(url), qa.JUDGE, qa.read_judgement, tmp_path / 'cache.jsonl')
  verdict = judge.ask(fields)
  assert (verdict.value, verdict.status) == (True, OK)
