"""UniGenBench from a generator to a report, with a judge that measures the images: no published numbers come of it."""

import dataclasses
import json
import types

import jax
import pytest
from PIL import Image

from bench.harness import runner
from bench.harness.task import Answer, Sampling
from bench.unigenbench import unigenbench
from bench.unigenbench.images import SEED, Options, main, write
from bench.unigenbench.prompts import load
from rl.flow.toy import digits, judges

CAPTIONS = ('a thick upright zero', 'a thin slanted seven')
POINTS = ['Text Generation', 'Attribute - Size']


@pytest.fixture
def data(tmp_path):
  """A file of prompts in the released form, about digits."""
  lines = ['index,prompt_en,sub_dims_en']
  for index, caption in enumerate(CAPTIONS):
    _, ink, _, digit = caption.split()
    cell = {
      'Primary Categories': 'Art',
      'Secondary Categories': 'Graphic Art',
      'Subjects': 'Other Entity',
      'Sentence Structure': 'Descriptive',
      'Testpoints': POINTS,
      'Testpoint Description': [digit, ink],
    }
    quoted = json.dumps(cell).replace('"', '""')
    lines.append(f'{index},{caption},"{quoted}"')
  path = tmp_path / 'prompts.csv'
  path.write_text('\n'.join(lines) + '\n')
  return path


@dataclasses.dataclass
class MeasuringJudge:
  """Answers as UniGenBench asks, from the pixels alone: which digit it reads, and how thick it is."""

  name: str = 'scripted'
  concurrent: bool = False
  asked: int = 0

  def settings(self, sampling):
    return {}

  def __call__(self, messages, sampling: Sampling, seed: int) -> Answer:
    self.asked += 1
    image, text = messages[-1]['content']
    caption = next(caption for caption in CAPTIONS if caption in text['text'])
    wanted = digits.read(caption)
    picture = Image.open(image['image']).convert('L')
    read = judges.digit_of(picture)
    ink = digits.ink(digits.levels_of([picture]))[0] > digits.medians().ink[wanted.digit]
    scores = [int(read == wanted.digit), int(ink == wanted.ink)]
    return Answer(f'<analysis>digit {read}</analysis><score>{scores}</score>')


def scans_like(caption):
  """A drawing function of held-out scans with this caption."""
  every = digits.scans('heldout')
  fits = [i for i in range(len(every.digit)) if every.caption(i) == caption]

  def draw(prompt, seeds):
    chosen = every.pixels[[fits[seed % len(fits)] for seed in seeds]]
    return digits.decode(chosen)

  return draw


def judged(data, folder, images, judge):
  task = unigenbench(images=str(images), per_prompt=2)
  return runner.run(task, task.load(str(data)), str(folder), model=judge, resamples=50)


def test_real_scans_pass_and_those_of_another_caption_fail(data, tmp_path):
  prompts, judge = load(str(data)).prompts, MeasuringJudge()
  own = lambda prompt, seeds: scans_like(prompt.text)(prompt, seeds)
  assert write(prompts, own, tmp_path / 'own', per_prompt=2) == 4
  good = judged(data, tmp_path / 'good', tmp_path / 'own', judge)['metrics']
  assert good['Text Generation']['value'] >= 0.75 and good['Attribute']['value'] == 1
  assert judge.asked == 4
  other = lambda prompt, seeds: scans_like(CAPTIONS[1 - prompt.index])(prompt, seeds)
  write(prompts, other, tmp_path / 'other', per_prompt=2)
  bad = judged(data, tmp_path / 'bad', tmp_path / 'other', judge)['metrics']
  assert bad['Text Generation']['value'] == 0 and bad['Attribute']['value'] < 0.5


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
def test_a_flow_policy_is_judged_end_to_end(data, tmp_path):
  """Random weights: what counts is that every image is drawn, judged and reported."""
  from core import mesh
  from rl.flow import mmdit
  from rl.flow.policy import FlowPolicy, PathOptions, Paths
  from rl.flow.toy.words import Words
  from rl.rollout import Ask

  config = mmdit.Config(channels=1, heads=2, head_dim=4, text=8, pooled=8, joint=2, table=4, table_extent=4)
  policy = FlowPolicy(config, PathOptions(steps=4), (8, 8, 1), Words(8, 8), digits.decode, rows=4)
  one = mesh.make(devices=jax.devices()[:1])
  engine = policy.engine(mmdit.init(jax.random.key(0), config), None, one)
  sampler = types.SimpleNamespace(policy=policy, engine=engine)

  def draw(prompt, seeds):
    asked = policy.prompt([{'role': 'user', 'content': prompt.text}])
    ask = Ask(0, 0, list(seeds), [None] * len(seeds), [asked] * len(seeds))
    return [group[0].response for group in Paths(1, deterministic=True)(sampler, ask)]

  assert write(load(str(data)).prompts, draw, tmp_path / 'images', per_prompt=2) == 4
  report = judged(data, tmp_path / 'out', tmp_path / 'images', MeasuringJudge())
  assert report['metrics']['Attribute']['value'] is not None
  assert (tmp_path / 'out' / 'gallery.html').exists()


def test_flags_are_checked(capsys):
  assert main(['--data=a.csv']) == 2
  assert '--model=FOLDER' in capsys.readouterr().err
  with pytest.raises(ValueError, match='--data=CSV'):
    Options()
