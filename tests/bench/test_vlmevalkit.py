"""Scoring as VLMEvalKit does: its rules by hand, its functions out of a checkout, and the comparison of both."""

import pytest

from bench import tasks
from bench.harness.task import Answer, Example
from bench.perf import vlmevalkit
from bench.perf.kit import drawn, theirs
from bench.vlm.hallusion import one_of_two
from bench.vlm.text_in_pictures import kit_form, normal_form


def points(name, rule, example, text):
  task = tasks.make(name, [f'rule={rule}'])
  (outcome,) = task.score([(example, Answer(text))])
  return outcome.scores[task.primary][0]


@pytest.mark.parametrize(
  ('name', 'gold', 'text', 'kit', 'default'),
  [
    ('docvqa', 'May', '\\boxed{May}', 0, 1),
    ('docvqa', 'May', 'May.', 0.75, 1),
    ('docvqa', 'Acme Corp.', 'Acme Corp.', 1, 1),
    ('chartqa', 'U.S.', 'U.S.', 1, 1),
    ('chartqa', '40', 'The answer is 41.', 0, 1),
    ('chartqa', '40', '41.', 1, 1),
    ('ocrbench', 'St.', '**St.**', 1, 1),
    ('ocrbench', 'exit', '<think>exit</think>entry', 1, 0),
  ],
)
def test_the_whole_output_counts_by_the_kit_and_the_marked_answer_by_default(name, gold, text, kit, default):
  example = Example('1', {'question': '?', 'accepted': (gold,)})
  assert points(name, 'vlmevalkit', example, text) == pytest.approx(kit)
  assert points(name, 'strict', example, text) == default


def test_a_full_stop_after_a_digit_is_kept_by_the_kit():
  assert (kit_form('The 5.'), normal_form('The 5.'), kit_form('St. Ives.')) == ('5.', '5', 'st ives')


@pytest.mark.parametrize(
  ('text', 'answer'),
  [('Yes.', 'yes'), ('No, it is', 'no'), ('yes or no', None), ('**Yes**', None), ('nothing', None), ('"no"', 'no')],
)
def test_one_of_yes_and_no(text, answer):
  assert one_of_two(text) == answer


@pytest.mark.parametrize('name', drawn.TASKS)
def test_drawn_tables_are_read_whole_and_differences_are_found(tmp_path, name):
  vlmevalkit.write_tables(tmp_path, rows=40, seed=1)
  path = str(tmp_path / f'{name}.tsv')
  found = vlmevalkit.compare(name, path, lambda row: 0.0)
  gained = [points for points in found.own if points]
  assert len(found.kit) == len(found.own) == len(found.default) == 40 and 0 < len(gained) < 40
  assert [(kit, own) for _, _, kit, own in found.different()] == [(0, points) for points in gained]


def test_a_function_of_a_checkout_is_called_as_it_is(tmp_path):
  (tmp_path / 'a.py').write_text('import missing_package\nLIMIT = 3\ndef f(x):\n  return helper(x) + LIMIT\n')
  space = theirs.functions(str(tmp_path), 'a.py', 'f', 'LIMIT', helper=lambda x: 10 * x)
  assert space['f'](2) == 23
  with pytest.raises(ValueError, match='g is missing'):
    theirs.functions(str(tmp_path), 'a.py', 'g')
  with pytest.raises(ValueError, match='expected a checkout'):
    theirs.verdicts(str(tmp_path))


def test_an_unknown_rule_is_named():
  for name in ('docvqa', 'textvqa', 'ocrbench', 'hallusionbench'):
    with pytest.raises(ValueError, match="rule is 'official'"):
      tasks.make(name, ['rule=official'])
