"""What a workdir says of the run it belongs to."""

import json
import os
import subprocess
import sys

import pytest

from rl.claim import claim_of
from rl.configs import Training
from rl.query import Query
from rl.tasks import TASKS, questions


def claim(rewards='boxed', task=TASKS['digits'], **changes):
  made = claim_of(Training(**changes), task, rewards, steps=3, max_new=4)
  return json.loads(json.dumps(made))


def sevens(query, response):
  return sum(c in {'7', '8', 'seven', 'eight', '7th'} for c in response)


def nines(query, response):
  return sum(c in {'9', '8'} for c in response)


class Length:
  def __call__(self, query, response):
    return len(response)


def test_registered_parts_go_by_their_names():
  made = claim(prompts=8)
  assert (made['prompts'], made['steps'], made['advantage']) == (8, 3, 'grpo')
  assert made['rewards'] == {'reward': 'boxed'} and made['task'] == 'digits'


def test_other_code_weights_or_component_names_are_another_claim():
  """One weight of a registered reward changed counts too."""
  given = [sevens, nines, (sevens, 2.0), {'a': sevens}, ('boxed', 0.5), Length(), lambda q, r: 1, lambda q, r: 2]
  claims = [json.dumps(claim(rewards)['rewards']) for rewards in given]
  assert len(set(claims)) == len(given)
  assert claim(sevens) == claim(sevens) and claim(Length()) == claim(Length())
  assert claim(advantage=sevens)['advantage'] != claim(advantage=nines)['advantage']


def test_a_task_goes_by_its_first_queries():
  asked = [
    questions(rows) for rows in (['a', 'b'], ['a', 'c'], ['a', 'b', 'c'], [Query([{'role': 'user'}], answer='1')])
  ]
  claims = [claim(task=task)['task'] for task in asked]
  assert len(set(claims)) == 4 and claims[0] == claim(task=questions(['a', 'b']))['task']


@pytest.mark.slow
def test_every_process_makes_the_same_claim():
  """A set among the constants of a function has another order in each process."""
  program = 'from tests.rl import test_claim as t; print(t.claim(t.sevens)["rewards"])'
  command, env = [sys.executable, '-c', program], os.environ | {'PYTHONHASHSEED': '1'}
  other = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
  assert other.stdout.strip() == str(claim(sevens)['rewards'])
