import json
from pathlib import Path

import pytest

from bench.harness import runner
from bench.harness.task import Answer, Example, Item
from bench.report import stats, summary
from bench.unigenbench import judging, prompts, unigenbench
from bench.unigenbench.task import AS_ZERO, overall
from bench.unigenbench.taxonomy import BY_NAME, PRIMARIES, TEST_POINTS

SAMPLE = Path(__file__).parents[1] / 'data' / 'unigenbench'
SHORT = {
  'Style': 250,
  'World Knowledge': 158,
  'Attribute': 234,
  'Action': 263,
  'Relationship': 197,
  'Compound': 194,
  'Grammar': 187,
  'Entity Layout': 134,
  'Logical Reasoning': 109,
  'Text Generation': 87,
}
# FLUX.1-dev, English short, as published: Style, Knowledge, Attribute, Action, Relationship, Logic, Grammar,
# Compound, Layout, Text, and their Overall.
FLUX = {
  'Style': 85.00,
  'World Knowledge': 87.50,
  'Attribute': 67.20,
  'Action': 62.26,
  'Relationship': 66.88,
  'Logical Reasoning': 29.77,
  'Grammar': 62.30,
  'Compound': 45.75,
  'Entity Layout': 70.90,
  'Text Generation': 32.18,
}
FLUX_OVERALL = 60.97


def count(prompt_set):
  totals = {}
  for prompt in prompt_set.prompts:
    for point in prompt.points:
      totals[point.primary] = totals.get(point.primary, 0) + 1
  return totals


@pytest.mark.parametrize(
  ('name', 'checkpoints', 'repaired'),
  [('en', 63, []), ('zh', 63, []), ('en_long', 148, ['index 509']), ('zh_long', 148, [])],
)
def test_published_rows_are_read(name, checkpoints, repaired):
  read = prompts.load(str(SAMPLE / f'test_prompts_{name}.csv'))
  assert (len(read.prompts), read.skipped) == (23, ())
  assert sum(len(p.points) for p in read.prompts) == checkpoints
  assert [p.where for p in read.repaired] == repaired
  assert len({p.sub_theme for p in read.prompts}) == 20
  assert sum(p.structure == 'imperative' for p in read.prompts) == 6
  assert set(count(read)) == set(PRIMARIES)


def test_both_languages_have_the_same_checkpoints():
  en, zh = (prompts.load(str(SAMPLE / f'test_prompts_{name}.csv')).prompts for name in ('en', 'zh'))
  for field in ('points', 'theme', 'sub_theme', 'subject', 'structure'):
    assert [getattr(p, field) for p in en] == [getattr(p, field) for p in zh], field


def test_only_a_missing_comma_is_mended(tmp_path):
  cell = {
    'Primary Categories': 'Art',
    'Secondary Categories': 'Other',
    'Subjects': 'Animal',
    'Sentence Structure': 'Descriptive',
    'Testpoints': ['Style', 'Logical Reasoning'],
    'Testpoint Description': ['a \\"b\\" c', 'd'],
  }
  good = json.dumps(cell)
  broken = {
    'comma': good.replace('"Style", ', '"Style" '),
    'brace': good[:-1],
    'name': good.replace('Style', 'Stile'),
    'length': good.replace(', "d"', ''),
    'not json': 'x',
    'list': '[]',
    'deep': '[' * 50_000,
  }
  cells = [text.replace('"', '""') for text in (good, *broken.values())]
  lines = [f'{i},a prompt,"{cell}"' for i, cell in enumerate(cells)]
  path = tmp_path / 'p.csv'
  path.write_bytes('\ufeffindex,prompt_en,sub_dims_en\r\n'.encode() + '\r\n'.join([*lines, lines[0]]).encode())
  found = prompts.load(str(path))
  assert [p.index for p in found.prompts] == [0, 1]
  assert found.prompts[0].phrases == found.prompts[1].phrases
  assert len(found.skipped) == len(broken) - 1 + 1
  assert found.skipped[-1].reason == 'duplicate_id'


@pytest.mark.parametrize(
  ('body', 'n', 'want'),
  [
    ('[1, 0]', 2, [1, 0]),
    ('(1, 0)', 2, [1, 0]),
    ('["1", "0"]', 2, [1, 0]),
    ('[True, False]', 2, [1, 0]),
    ('[true, false]', 2, [1, 0]),
    ('1', 1, [1]),
    ('true', 1, [1]),
    ('```json\n[1, 0]\n```', 2, [1, 0]),
    (' [1.0, 0.0,] ', 2, [1, 0]),
    ('[0.5, 1]', 2, None),
    ('[7, -1]', 2, None),
    ('{1, 0}', 2, None),
    ("'10'", 2, None),
    ('1', 2, None),
    ('[1, 0, 1]', 2, None),
    ('[[1], [0]]', 2, None),
    ('[1 0]', 2, None),
    ('[NaN, 1]', 2, None),
    ('', 1, None),
    ('[' * 100_000, 1, None),
    ('[' + '1,' * 40_000 + ']', 2, None),
    ('[9**9**9, 1]', 2, None),
    ('exit()', 1, None),
  ],
)
def test_scores_are_read_tolerantly_and_never_guessed(body, n, want):
  text = f'<description><analysis>[\'it\'s "so"\n]</analysis><score>{body}</score></description>'
  if want is None:
    with pytest.raises(ValueError):
      judging.read_scores(text, n)
  else:
    assert judging.read_scores(text, n) == want
  assert judging.read_analysis(text).startswith("['it's")


def test_the_last_score_counts_in_any_case_and_open_tags_cost_nothing():
  assert judging.read_scores('<score>[0]</score> no: <SCORE x="1">[1]</Score>', 1) == [1]
  with pytest.raises(ValueError, match='no score element'):
    judging.read_scores('<score>' * 300_000, 1)


def test_questions_name_every_checkpoint_and_phrase():
  for name in ('en_long', 'zh_long'):
    for prompt in prompts.load(str(SAMPLE / f'test_prompts_{name}.csv')).prompts:
      text = judging.question(prompt)
      assert prompt.text in text
      for point, phrase in zip(prompt.points, prompt.phrases):
        assert getattr(point, f'asks_{prompt.language}') in text and phrase in text
  with pytest.raises(ValueError, match=r'its fields are \$prompt'):
    judging.question(prompt, 'rate $image')


def test_the_published_row_of_flux_reproduces_from_counts():
  totals = {name: 4 * n for name, n in (SHORT | {'Logical Reasoning': 110}).items()}
  hits = {name: round(FLUX[name] / 100 * total) for name, total in totals.items()}
  scores = {name: (float(hits[name]), float(totals[name])) for name in totals}
  item = Item(Example('all', {}), (), (), scores)
  for name in PRIMARIES:
    assert round(100 * hits[name] / totals[name], 2) == FLUX[name], name
  whole = overall([item])['Overall']
  assert round(100 * stats.value_of(*summary.columns([item], whole)), 2) == FLUX_OVERALL


def answers(data, reply):
  return {example.id: [Answer(reply(example))] for example in data.examples}


def test_pooling_unparsed_rows_and_repeated_checkpoints():
  task = unigenbench(per_prompt=2)
  data = task.load(str(SAMPLE / 'test_prompts_en_long.csv'))
  assert len(data.examples) == 2 * 23

  def reply(example):
    prompt = example.fields['prompt']
    if example.id == '163_1':
      return 'I cannot say'
    # At index 163 Material occurs twice: the first is right, the second wrong.
    bits = [int(i == 0 or point.primary != 'Attribute') for i, point in enumerate(prompt.points)]
    return f'<score>{bits}</score>'

  items = runner.score(task, data.examples, answers(data, reply))
  found = summary.summarise(task, items, resamples=200)
  twice = next(item for item in items if item.example.id == '163_0')
  assert twice.scores['Attribute - Material'][1] == 2
  lost = count(prompts.load(str(SAMPLE / 'test_prompts_en_long.csv')))['Attribute'] * 2
  material = sum(p.primary == 'Attribute' for p in twice.example.fields['prompt'].points)
  table = found['extras']['primary_dimensions']['Attribute']
  assert table['total'] == lost - material
  assert found['extras']['unparsed images by dimension']['Attribute'] == 1
  assert found['statuses'] == {'ok': 45, 'unparsed': 1}
  assert found['metrics'][f'Style{AS_ZERO}']['value'] <= found['metrics']['Style']['value'] == 1
  assert found['metrics']['Overall']['problems'] == 23


def test_no_overall_without_a_judgement_in_every_dimension():
  task = unigenbench(per_prompt=1)
  data = task.load(str(SAMPLE / 'test_prompts_en.csv'))
  few = [e for e in data.examples if all(p.primary != 'Grammar' for p in e.fields['prompt'].points)]
  reply = lambda example: f'<score>{[1] * len(example.fields["prompt"].points)}</score>'
  items = runner.score(task, few, {e.id: [Answer(reply(e))] for e in few})
  found = summary.summarise(task, items, resamples=200)
  assert 'Overall' not in found['metrics']
  assert 'Grammar' in found['extras']['no Overall']


def test_missing_images_stop_the_run_before_it_starts(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'92 of 92 images are missing, first .*0_0\.png'):
    unigenbench(images=str(tmp_path)).load(str(SAMPLE / 'test_prompts_en.csv'))


def test_the_taxonomy_is_whole():
  assert (len(TEST_POINTS), len(PRIMARIES), len(BY_NAME)) == (27, 10, 54)
