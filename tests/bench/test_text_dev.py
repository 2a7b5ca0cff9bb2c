"""Development texts, and what the named public code makes of them."""

import json
from pathlib import Path

import pytest

from bench import passk
from bench.search import qa
from bench.speech.normalize import normaliser
from bench.vlm.answers import options

PAIRS = Path(__file__).parents[1] / 'data' / 'eval_text_dev.jsonl'
CASES = [json.loads(line) for line in PAIRS.read_text(encoding='utf-8').splitlines()]


def ours(case):
  task, given = case['task'], case['input']
  if task.startswith('whisper'):
    return normaliser(task)(given)
  if task == 'vlmevalkit_option':
    return options.vlmevalkit_option(given, case['choices']) or False
  if task == 'mmmu_mc':
    return options.mmmu_option(given, case['choices']) or 'RANDOM'
  if task == 'mmmu_open':
    return options.open_correct(given, [case['gold']])
  if task == 'qa_set_f1_em':
    return [qa.set_f1(given, case['gold']), qa.exact_match(given, case['gold'])]
  return passk.pass_at_k(*given)


@pytest.mark.parametrize('task', sorted({case['task'] for case in CASES}))
def test_matches_public_code(task):
  cases = [case for case in CASES if case['task'] == task]
  wrong = [
    (case['input'], ours(case), case['ref'])
    for case in cases
    if ours(case) != (pytest.approx(case['ref'], abs=1e-12) if task == 'pass_at_k' else case['ref'])
  ]
  assert cases and not wrong
