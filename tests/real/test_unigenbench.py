"""The counts of the released UniGenBench files."""

import pytest

from bench.unigenbench import judging, prompts
from tests.bench.test_unigenbench import SHORT, count

pytestmark = pytest.mark.real


def load(real_folder, name: str):
  return prompts.load(str(real_folder('unigenbench') / f'test_prompts_{name}.csv'))


@pytest.mark.parametrize(
  ('name', 'checkpoints', 'repaired'),
  [('en', 1813, []), ('zh', 1813, []), ('en_long', 3920, ['index 509']), ('zh_long', 3920, [])],
)
def test_the_released_files(real_folder, name, checkpoints, repaired):
  read = load(real_folder, name)
  assert (len(read.prompts), read.skipped) == (600, ())
  assert sum(len(p.points) for p in read.prompts) == checkpoints
  assert [p.where for p in read.repaired] == repaired
  assert len({p.sub_theme for p in read.prompts}) == 20
  assert sum(p.structure == 'imperative' for p in read.prompts) == 179
  if 'long' not in name:
    assert count(read) == SHORT


def test_both_languages_have_the_same_checkpoints(real_folder):
  english = load(real_folder, 'en').prompts
  chinese = load(real_folder, 'zh').prompts
  for field in ('points', 'theme', 'sub_theme', 'subject', 'structure'):
    assert [getattr(p, field) for p in english] == [getattr(p, field) for p in chinese], field


def test_questions_name_every_checkpoint_and_phrase(real_folder):
  for name in ('en_long', 'zh_long'):
    for prompt in load(real_folder, name).prompts:
      text = judging.question(prompt)
      assert prompt.text in text
      for point, phrase in zip(prompt.points, prompt.phrases):
        assert getattr(point, f'asks_{prompt.language}') in text and phrase in text
