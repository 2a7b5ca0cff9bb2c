import json

import pytest

from bench.harness import runner
from bench.harness.judge import Verdict
from bench.harness.task import Answer
from bench.report import summary
from bench.search import qa


@pytest.mark.parametrize(
  ('prediction', 'accepted', 'f1', 'em'),
  [
    ('July 20, 1851', ['20 July 1851'], 1, 0),
    ('The Beatles', ['Beatles'], 2 / 3, 0),
    ('the the the Beatles', ['The Beatles'], 1, 0),
    ('New York City', ['New York', 'NYC'], 0.8, 0),
    ('nyc!', ['New York', 'NYC'], 1, 1),
    ('U.S.A.', ['USA'], 0, 0),
    ('co-operate', ['cooperate', 'co operate'], 1, 1),
    ('42', ['42.0'], 2 / 3, 0),
    ('St. Louis', ['Saint Louis'], 0.5, 0),
    ('', [''], 0, 1),
  ],
)
def test_matches_deepresearcher(prediction, accepted, f1, em):
  assert qa.set_f1(prediction, accepted) == pytest.approx(f1)
  assert qa.exact_match(prediction, accepted) == em


def test_squad_counts_repetitions_and_drops_articles():
  assert qa.squad_f1('the the the Beatles', ['The Beatles']) == 1
  assert qa.squad_f1('b b', ['b']) == pytest.approx(2 / 3)
  assert qa.squad_f1('U.S.A.', ['USA']) == 1


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ('<think>x</think><answer> a </answer><answer>b</answer>', 'a'),
    ('plain', None),
    ('<answer>a', None),
    ('<think><answer>a</answer>', None),
    ('<tool_call></tool_call></tool_call><answer>a</answer>', None),
    ('</answer><answer>', None),
    ('', None),
  ],
)
def test_the_first_answer_of_balanced_output(text, want):
  assert qa.final_answer(text) == want


def test_judgements_short_circuits_failures_and_macro_means(tmp_path):
  rows = [
    {'id': i, 'question': f'q{i}', 'answer': f'gold {i}{qa.SEPARATOR}other', 'data_source': 'a' if i < 3 else 'b'}
    for i in range(4)
  ]
  (tmp_path / 'x.json').write_text(json.dumps(rows))
  asked = []

  class Fake:
    def settings(self):
      return {}

    def ask_all(self, questions):
      asked.extend(questions)
      return [Verdict(True, 'ok', ''), Verdict(None, 'judge_failed', '')]

  task = qa.qa()
  data = task.load(str(tmp_path / 'x.json'))
  given = dict(zip('0123', [[Answer(f'<answer>{t}</answer>')] for t in ('Other!', 'yes', 'no')] + [[Answer('?')]]))
  outcomes = list(qa._score([(e, given[e.id][0]) for e in data.examples], judge=Fake(), plain=False))
  assert [q['prediction'] for q in asked] == ['yes', 'no']
  assert asked[0]['accepted'] == 'gold 1 | other'
  assert [o.scores['pm'][0] for o in outcomes] == [1, 1, 0, 0]
  assert [o.status for o in outcomes] == ['ok', 'ok', 'judge_failed', 'no_answer']
  found = summary.summarise(task, runner.score(task, data.examples, given), resamples=200)
  assert found['metrics']['em']['value'] == 1 / 4
  assert found['metrics']['em, mean of sources']['value'] == pytest.approx((1 / 3 + 0) / 2)
