"""UniGenBench from a generator to a report, with a judge that measures the images: no published numbers come of it."""

import jax
import pytest
from PIL import Image

from bench.unigenbench import digits as program
from bench.unigenbench.digits import MeasuringJudge, judged, prompt_file
from bench.unigenbench.images import SEED, Options, main, write
from bench.unigenbench.prompts import load
from rl.flow.toy import digits

CAPTIONS = ('a thick upright zero', 'a thin slanted seven')
NAMES = ('Attribute - Size', 'Attribute - Shape', 'Text Generation')


@pytest.fixture
def data(tmp_path):
  """A file of two prompts in the released form."""
  path = tmp_path / 'prompts.csv'
  path.write_text(prompt_file(CAPTIONS))
  return path


def scans_like(caption):
  """A drawing function of held-out scans with this caption."""
  every = digits.scans('heldout')
  fits = [i for i in range(len(every.digit)) if every.caption(i) == caption]

  def draw(prompt, seeds):
    chosen = every.pixels[[fits[seed % len(fits)] for seed in seeds]]
    return digits.decode(chosen)

  return draw


def test_real_scans_pass_and_those_of_another_caption_fail(data, tmp_path):
  prompts, judge = load(str(data)).prompts, MeasuringJudge()
  own = lambda prompt, seeds: scans_like(prompt.text)(prompt, seeds)
  assert write(prompts, own, tmp_path / 'own', per_prompt=2) == 4
  good = judged(data, tmp_path / 'own', tmp_path / 'good', judge, per_prompt=2)['metrics']
  assert good['Text Generation']['value'] >= 0.75 and good['Attribute']['value'] == 1
  assert judge.asked == 4
  other = lambda prompt, seeds: scans_like(CAPTIONS[1 - prompt.index])(prompt, seeds)
  write(prompts, other, tmp_path / 'other', per_prompt=2)
  bad = judged(data, tmp_path / 'other', tmp_path / 'bad', judge, per_prompt=2)['metrics']
  assert bad['Text Generation']['value'] == 0 and bad['Attribute']['value'] < 0.5


def test_the_judge_gives_each_checkpoint_its_own_verdict(data, tmp_path):
  """A digit drawn right with the wrong slant loses that checkpoint alone."""
  leaning = scans_like('a thick slanted zero')
  prompts = load(str(data)).prompts[:1]
  assert [point.en for point in prompts[0].points] == list(NAMES)
  write(prompts, leaning, tmp_path / 'images', per_prompt=1)
  write(load(str(data)).prompts[1:], scans_like(CAPTIONS[1]), tmp_path / 'images', per_prompt=1)
  metrics = judged(data, tmp_path / 'images', tmp_path / 'out', MeasuringJudge(), per_prompt=1)['metrics']
  assert [metrics[name]['value'] for name in NAMES] == [1.0, 0.5, 1.0]


def test_images_that_exist_are_not_made_again(data, tmp_path):
  prompts, seen = load(str(data)).prompts, []

  def draw(prompt, seeds):
    seen.append((prompt.index, list(seeds)))
    return [Image.new('L', (8, 8), seed % 256) for seed in seeds]

  assert write(prompts, draw, tmp_path / 'images', per_prompt=3) == 6
  (tmp_path / 'images' / '1_2.png').unlink()
  assert write(prompts, draw, tmp_path / 'images', per_prompt=3) == 1
  assert seen == [(0, [SEED, SEED + 1, SEED + 2]), (1, [SEED, SEED + 1, SEED + 2]), (1, [SEED + 2])]


@pytest.mark.slow
def test_a_model_of_a_run_is_judged_by_one_command(tmp_path, capsys):
  """Random weights: what counts is that every image is drawn, judged and reported, as a user would ask for it."""
  from rl.flow import mmdit
  from rl.flow.files import transformer

  config = mmdit.Config(channels=1, heads=2, head_dim=4, text=8, pooled=8, joint=2, table=4, table_extent=4)
  transformer.save(tmp_path / 'model', config, mmdit.init(jax.random.key(0), config))
  flags = [f'--model={tmp_path / "model"}', f'--out={tmp_path / "out"}', '--per_prompt=1', '--steps=3']
  assert program.main(['digits', *flags]) == 0
  assert len(list((tmp_path / 'out' / 'images').glob('*.png'))) == len(digits.PROMPTS)
  assert (tmp_path / 'out' / 'report' / 'gallery.html').exists()
  assert 'Attribute - Shape' in capsys.readouterr().out


def test_flags_are_checked(capsys):
  assert main(['--data=a.csv']) == 2
  assert '--model=FOLDER' in capsys.readouterr().err
  with pytest.raises(ValueError, match='--data=CSV'):
    Options()
  with pytest.raises(ValueError, match='--model=FOLDER'):
    program.Options()
