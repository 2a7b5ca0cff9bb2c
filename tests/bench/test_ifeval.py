"""IFEval: each check on a response that follows and one that does not, and the four accuracies by hand."""

import json

import pytest

from bench import tasks
from bench.harness.task import Answer
from bench.ifeval.checks import CHECKS, followed, loose

# Instruction, arguments, responses that follow it, responses that do not.
CASES = [
  ('keywords:existence', {'keywords': ['sea', 'Sun']}, ['The sun over the Sea.'], ['The sun.']),
  ('keywords:frequency', {'keyword': 'sea', 'frequency': 2, 'relation': 'at least'}, ['Sea and sea'], ['sea']),
  ('keywords:forbidden_words', {'forbidden_words': ['art']}, ['a part'], ['Art is long']),
  ('keywords:letter_frequency', {'letter': 'q', 'let_frequency': 2, 'let_relation': 'less than'}, ['Quiet'], ['Qq']),
  (
    'length_constraints:number_sentences',
    {'num_sentences': 3, 'relation': 'less than'},
    ['One. Two by Dr. Who?'],
    ['One. Two! Three'],
  ),
  (
    'length_constraints:number_paragraphs',
    {'num_paragraphs': 2},
    ['one\n***\ntwo', 'one\n***\ntwo\n***'],
    ['one', 'a\n***\n\n***\nb'],
  ),
  ('length_constraints:number_words', {'num_words': 3, 'relation': 'at least'}, ["it's so"], ['so so']),
  (
    'length_constraints:nth_paragraph_first_word',
    {'num_paragraphs': 2, 'nth_paragraph': 2, 'first_word': 'then'},
    ['First.\n\n"Then, second'],
    ['Then.\n\nsecond', 'First\nThen', 'First\n\nThen\n\nthird'],
  ),
  ('detectable_content:number_placeholders', {'num_placeholders': 2}, ['[name] at [place]'], ['[name]']),
  ('detectable_content:postscript', {'postscript_marker': 'P.S.'}, ['Yes.\nP. S. no'], ['Yes.', 'Yes. P.S. no']),
  ('detectable_content:postscript', {'postscript_marker': 'P.P.S'}, ['Yes.\nP.P.S no'], ['Yes.\nP.S. no']),
  ('detectable_format:number_bullet_lists', {'num_bullets': 2}, ['Two:\n* a\n- b'], ['* a', '**bold**\n* a']),
  ('detectable_format:constrained_response', {}, ['My answer is no.'], ['No.']),
  ('detectable_format:number_highlighted_sections', {'num_highlights': 2}, ['*a* and **b**'], ['*a* and * *']),
  (
    'detectable_format:multiple_sections',
    {'section_spliter': 'Part', 'num_sections': 2},
    ['Part 1\na\nPart 2\nb'],
    ['Part 1'],
  ),
  ('detectable_format:json_format', {}, ['{"a": 1}', '```json\n[1]\n```'], ['a: 1', '[' * 100_000]),
  ('detectable_format:title', {}, ['<<A title>>\ntext'], ['<< >>', '<title>']),
  ('combination:two_responses', {}, ['one\n******\ntwo'], ['one', 'one******one', 'a******b******c']),
  ('combination:repeat_prompt', {'prompt_to_repeat': 'Say this'}, ['say this\nSaid.'], ['Said. Say this']),
  (
    'startend:end_checker',
    {'end_phrase': 'Any questions?'},
    ['Done. any questions?', '"Any questions?"'],
    ['Any questions? No.'],
  ),
  ('startend:quotation', {}, ['"Quoted"'], ['"', '"Not" quoted']),
  (
    'change_case:capital_word_frequency',
    {'capital_frequency': 2, 'capital_relation': 'at least'},
    ['NEW YORK'],
    ['NEW York'],
  ),
  ('punctuation:no_comma', {}, ['no comma'], ['a, b']),
]
NEEDS_LANGDETECT = {'language:response_language', 'change_case:english_capital', 'change_case:english_lowercase'}


@pytest.mark.parametrize('name,arguments,follow,do_not', CASES)
def test_what_follows_and_what_does_not(name, arguments, follow, do_not):
  assert [followed(name, arguments, text) for text in follow] == [True] * len(follow)
  assert [followed(name, arguments, text) for text in do_not] == [False] * len(do_not)
  assert not followed(name, arguments, ' \n')


def test_every_instruction_has_a_case():
  assert {name for name, *_ in CASES} | NEEDS_LANGDETECT == set(CHECKS) and len(CHECKS) == 25


def test_languages_and_cases_of_english():
  german = 'Das ist ein schöner Tag und wir gehen heute in den Wald.'
  english = 'This is a beautiful day and we are going to the forest.'
  assert followed('language:response_language', {'language': 'de'}, german)
  assert not followed('language:response_language', {'language': 'de'}, english)
  assert followed('change_case:english_lowercase', {}, english.lower())
  assert not followed('change_case:english_lowercase', {}, english)
  assert followed('change_case:english_capital', {}, english.upper())
  assert not followed('change_case:english_capital', {}, german.upper())


def test_loose_forms_drop_an_introduction_and_asterisks():
  assert loose('Sure:\n*yes*')[:2] == ['Sure:\n*yes*', '*yes*'] and 'yes' in loose('Sure:\n*yes*')


def test_four_accuracies_by_hand(tmp_path):
  """Two prompts; the second breaks one of its two instructions, strictly, and none loosely."""
  rows = [
    {'key': 1, 'prompt': 'a', 'instruction_id_list': ['punctuation:no_comma'], 'kwargs': [{'keyword': None}]},
    {
      'key': 2,
      'prompt': 'b',
      'instruction_id_list': ['punctuation:no_comma', 'startend:quotation'],
      'kwargs': [{}, {}],
    },
    {'key': 3, 'prompt': 'c', 'instruction_id_list': ['punctuation:no_dash'], 'kwargs': [{}]},
    {'key': 4, 'prompt': 'd', 'instruction_id_list': ['startend:quotation'], 'kwargs': [{'letter': 'x'}]},
  ]
  path = tmp_path / 'rows.json'
  path.write_text(json.dumps(rows))
  task = tasks.TASKS['ifeval']()
  data = task.load(str(path))
  assert [problem.reason for problem in data.skipped] == [
    "instruction 'punctuation:no_dash' is unknown",
    "startend:quotation has arguments ['letter'], expected []",
  ]
  said = ['<think>a, b</think>No comma.', 'Here it is:\n"Quoted"']
  outcomes = list(task.score((e, Answer(text)) for e, text in zip(data.examples, said)))
  sums = {m: tuple(map(sum, zip(*(o.scores[m] for o in outcomes)))) for m in task.metric_order}
  assert sums == {
    'prompt strict': (1, 2),
    'instruction strict': (2, 3),
    'prompt loose': (2, 2),
    'instruction loose': (3, 3),
  }
