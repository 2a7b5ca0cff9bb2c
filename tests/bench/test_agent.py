"""Agents on question files: resumable, judged, never shown their own case; and what memory is worth."""

import json

import numpy as np
import pytest

from agents.memory import CaseBank, HashEncoder, Memory, Reading
from agents.planner.episode import Limits
from agents.planner.planner import Agent
from bench import agent as agents
from bench import memory as study
from bench.search import qa
from core.serving.client import RequestFailed


def questions(tmp_path, count=8):
  made = study.tasks(count, 0, 'q', lenient=0.0)
  rows = [
    {'id': t.id, 'question': t.question, 'ground_truth': f'{t.gold}<|answer_split|>other', 'data_source': s}
    for t, s in zip(made, ['nq', 'tq'] * count)
  ]
  path = tmp_path / 'data.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  return made, path


def measure(tmp_path, name, bank, made, path, *, planner=None, **options):
  task = qa.qa(plain=True)
  memory = Memory(bank, Reading(exclude_own=True)) if bank is not None else None
  agent = Agent(planner or study.Planner(), study.Executor(made), memory=memory, limits=Limits(steps=2))
  options = {'iterations': 1, 'learn': False, 'seed': 0, 'resamples': 200, **options}
  return agents.measure(agent, task.load(str(path)), tmp_path / name, task=task, **options)


def test_a_pass_is_scored_by_source_with_stops_and_selector(tmp_path):
  made, path = questions(tmp_path)
  bank = CaseBank(':memory:', HashEncoder(64))
  result = measure(tmp_path, 'a', bank, made, path, learn=True, iterations=2)
  first, second = result['passes']
  assert first['attempts'] == 1 and first['metrics']['em']['problems'] == 8
  assert set(first['sources']) == {'nq', 'tq'} and first['stops'] == {'answered': 8}
  assert first['selectors'] == {'cosine': 8}
  assert second['any of 2 attempts']['em']['value'] >= max(p['metrics']['em']['value'] for p in result['passes'])
  assert first['mean of sources']['em'] == pytest.approx(first['metrics']['em']['value'])
  assert len(bank) == 16 and {c.run for c in bank.cases()} == {'a/1', 'a/2'}
  assert all(u.key != u.case.key for u in bank.uses())
  lines = [json.loads(line) for line in (tmp_path / 'a' / 'attempts.jsonl').read_text().splitlines()][1:]
  own = {c.id: c.key for c in bank.cases()}
  assert all(own[i] != line['id'] for line in lines for i in line['episode']['read'])


class Broken(study.Planner):
  """A planner whose server goes away after some calls."""

  def __init__(self, left):
    self.left = left

  def chat(self, *args, **kwargs):
    self.left -= 1
    if self.left < 0:
      raise RequestFailed('gone')
    return super().chat(*args, **kwargs)


def test_what_failed_is_asked_again_and_nothing_else(tmp_path):
  made, path = questions(tmp_path)
  bank = CaseBank(':memory:', HashEncoder(64))
  broken = measure(tmp_path, 'b', bank, made, path, learn=True, planner=Broken(6))
  assert broken['passes'][0]['stops'] == {'answered': 3, 'request_failed': 5} and len(bank) == 3
  whole = measure(tmp_path, 'b', bank, made, path, learn=True, planner=Broken(100))
  assert whole['passes'][0]['stops'] == {'answered': 8} and len(bank) == 8
  again = measure(tmp_path, 'b', bank, made, path, learn=True, planner=Broken(0))
  assert again == {**whole, 'bank before': again['bank before']}
  with pytest.raises(ValueError, match='learn'):
    measure(tmp_path, 'b', bank, made, path)


def test_reading_only_changes_no_bank(tmp_path):
  made, path = questions(tmp_path)
  bank = CaseBank(':memory:', HashEncoder(64))
  bank.add(made[0].question, '', 1, key=made[0].id)
  result = measure(tmp_path, 'c', bank, made, path)
  assert result['bank before'] == result['bank after'] == bank.digest() and not bank.uses()
  without = measure(tmp_path, 'd', None, made, path)
  assert without['passes'][0]['selectors'] == {'none': 8}


def test_the_stand_ins_know_nothing_without_cases():
  rewards = study.run('aligned', 'no memory', seed=0, stream=2, heldout=200).heldout
  assert 0.15 < rewards.mean() < 0.36  # one procedure in four
  assert (study.run('aligned', 'no memory', seed=0, stream=2, heldout=200).heldout == rewards).all()
  with pytest.raises(ValueError, match="family='other'"):
    study.run('other', 'cosine', seed=0)


@pytest.mark.slow
def test_memory_beats_none_and_random_where_similarity_leads():
  held = lambda name: np.array(
    [study.run('aligned', name, seed=s, stream=100, heldout=100).heldout.mean() for s in range(3)]
  )
  cosine = held('cosine')
  for control in ('no memory', 'random'):
    _, low, high = study.interval(cosine - held(control))
    assert 0.3 < low < high < 0.9


@pytest.mark.long
def test_learned_retrieval_beats_similarity_where_it_misleads():
  held = lambda name: np.array(
    [study.run('misleading', name, seed=s, stream=400, heldout=100).heldout.mean() for s in range(10, 15)]
  )
  _, low, _ = study.interval(held('learned') - held('cosine'))
  assert low > 0


def test_the_interval_is_student_s_and_the_table_pairs_streams():
  mean, low, high = study.interval(np.array([1.0, 2.0, 3.0]))
  assert (mean, low, high) == pytest.approx((2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rel=1e-6)
  shown = study.table({'cosine': np.array([0.5, 0.3]), 'learned': np.array([0.6, 0.4])})
  assert '| learned | 50.0 % (-77.1 to 177.1) | +10.0 (+10.0 to +10.0) |' in shown
