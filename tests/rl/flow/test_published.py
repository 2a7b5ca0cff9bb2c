"""Pref-GRPO of a folder as diffusers publishes it."""

import dataclasses
import json
import types
from typing import NamedTuple

import httpx
import jax
import numpy as np
import pytest
from PIL import Image

from core import mesh
from core.training.data import DataError
from rl import train
from rl.flow import generation
from rl.flow.configs import CONFIGS, JudgeServer
from rl.flow.files import pipeline
from rl.flow.files import transformer as transformer_files
from rl.flow.policy import FlowPrompt, PathOptions, Paths
from rl.flow.published import policy as published
from rl.flow.published.against import Against, Remembered
from rl.flow.published.encodings import Encodings, read
from rl.flow.published.train import learn, task_of
from rl.query import Query
from rl.rollout import Ask
from tests.rl.flow import tiny

ONE = mesh.make(devices=jax.devices()[:1])
SIZE = published.Size(16, 16, tokens=6)
PROMPTS = {'train': ['a red square', 'a blue circle'], 'heldout': ['the large green circle', 'a small square']}
PATHS = PathOptions(steps=3, fraction=0.5)
CONFIG = dataclasses.replace(
  CONFIGS['pref_grpo_folder'],
  prompts=1,
  group=3,
  updates=1,
  steps=2,
  eval_queries=2,
  eval_every=1,
  save_every=1,
  rows=3,
  height=16,
  width=16,
  tokens=6,
  paths=PATHS,
  dtype='float32',
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  made = tmp_path_factory.mktemp('flux')
  texts, generator = tiny.pipeline('flux', made)
  pipeline.save(made / 'model', texts, generator)
  return made / 'model'


def brighter(prompt, first, second):
  """The judge: more light wins."""
  difference = np.asarray(first, int).sum() - np.asarray(second, int).sum()
  return 'first' if difference > 0 else 'second' if difference < 0 else 'tie'


@pytest.mark.slow
def test_a_prompt_and_an_image_are_those_of_the_pipeline(folder):
  policy, _ = published.load(folder, PATHS, SIZE, rows=2, mesh=ONE)
  prompt = policy.encode('a red square')
  texts, generator = pipeline.load_texts(folder), pipeline.load_generator(folder)
  condition = generation_condition(texts, policy.config.text)
  np.testing.assert_allclose(prompt.context, condition.context[0], atol=1e-6)
  np.testing.assert_allclose(prompt.pooled, condition.pooled[0], atol=1e-6)
  latents = np.random.default_rng(0).standard_normal((3, *policy.latent)).astype(np.float32)
  coder = generator.vae
  whole = generation.to_bytes(generation.run_decoder(coder.params, coder.config, latents))
  for image, expected in zip(policy.decode(latents), whole, strict=True):
    assert np.abs(np.asarray(image, int) - expected).max() <= 1  # rounding of another program


def generation_condition(texts, width):
  from rl.flow import prompts

  return prompts.encode(texts, ['a red square'], width=width, tokens=SIZE.tokens)


def test_sizes_that_cannot_be_are_refused_before_weights_are_read(folder, monkeypatch):
  monkeypatch.setattr(pipeline, 'load_generator', lambda *_, **__: pytest.fail('weights were read'))
  with pytest.raises(ValueError, match='15 x 16 pixels'):
    published.load(folder, PATHS, published.Size(15, 16))


def test_a_prompt_is_encoded_once_and_kept_for_the_next_process(tmp_path):
  loads, encoded = [], []

  def encode(text):
    encoded.append(text)
    number = np.float32(len(text))
    tokens = np.zeros(2, np.int32)
    return FlowPrompt(text=text, tokens=tokens, context=np.full((2, 3), number), pooled=np.full(4, number))

  def load():
    loads.append(1)
    return encode

  first = Encodings(tmp_path, 'model', load)
  assert not loads  # a run whose prompts are all kept loads no encoder
  made = [first(text) for text in ('a cat', '', 'a cat')]
  assert (encoded, len(loads)) == (['a cat', ''], 1)
  kept = Encodings(tmp_path, 'model', load)('a cat')
  assert len(loads) == 1 and kept.text == 'a cat'
  for name in ('tokens', 'context', 'pooled'):
    assert np.array_equal(getattr(kept, name), getattr(made[0], name))
  Encodings(tmp_path, 'another model', load)('a cat')
  assert len(encoded) == 3
  damaged = next(tmp_path.glob('*.safetensors'))
  damaged.write_bytes(b'cut')
  with pytest.raises(ValueError, match=damaged.name):
    read(damaged, '')


@pytest.mark.slow
def test_guidance_of_two_passes_encodes_the_empty_prompt(tmp_path):
  """Before the sampler is traced: an encoder cannot run inside another program."""
  texts, generator = tiny.pipeline('sd3', tmp_path)
  pipeline.save(tmp_path / 'model', texts, generator)
  paths = dataclasses.replace(PATHS, guidance=4.5)
  options = {'rows': 2, 'mesh': ONE, 'kept': tmp_path / 'prompts'}
  policy, weights = published.load(tmp_path / 'model', paths, SIZE, **options)
  sampler = types.SimpleNamespace(policy=policy, engine=policy.engine(weights, None, ONE))
  ask = Ask(0, 0, [0], [None], [policy.encode('a red square')])
  ((first, second),) = Paths(2)(sampler, ask)
  assert np.isfinite(first.states).all() and first.response.size == (16, 16)
  assert not np.array_equal(first.following, second.following)


def test_a_run_needs_a_folder_prompts_and_a_server(tmp_path):
  with pytest.raises(ValueError, match=r'model, data, heldout, judge.url: expected a folder'):
    train.main(CONFIGS['pref_grpo_folder'], tmp_path)
  server = JudgeServer(url='http://127.0.0.1:9/v1')
  config = dataclasses.replace(CONFIG, model='x', data=('missing.jsonl',), heldout=('y.jsonl',), judge=server)
  with pytest.raises(FileNotFoundError, match=r'missing\.jsonl'):
    train.main(config, tmp_path)
  empty = tmp_path / 'empty.jsonl'
  empty.write_text('')
  with pytest.raises(DataError, match=r'empty\.jsonl: no records'):
    train.main(dataclasses.replace(config, data=(str(empty),)), tmp_path)
  good, bad = write(tmp_path / 'good.jsonl', ['a']), tmp_path / 'bad.jsonl'
  bad.write_text('{"prompt": "b"}\n{"text": "c"}\n')
  with pytest.raises(DataError, match=r'bad\.jsonl.*2.*prompt=None'):
    task_of([str(good)], [str(bad)])
  with pytest.raises(ValueError, match="prompt 'a' is in data and in heldout"):
    task_of([str(good)], [str(good)])


def test_a_server_that_does_not_say_its_model_ends_the_run_in_one_line(tmp_path, monkeypatch):
  real = httpx.Client
  nobody = httpx.MockTransport(lambda request: httpx.Response(404))
  monkeypatch.setattr(httpx, 'Client', lambda **k: real(transport=nobody))
  data, heldout = write(tmp_path / 'a.jsonl', ['a']), write(tmp_path / 'b.jsonl', ['b'])
  server = JudgeServer(url='http://judge/v1')
  config = dataclasses.replace(CONFIG, model='x', data=(str(data),), heldout=(str(heldout),), judge=server)
  with pytest.raises(ValueError, match=r"judge\.url='http://judge/v1': .*/models: status 404"):
    train.main(config, tmp_path)


class Drawn(NamedTuple):
  """A trajectory, as far as an evaluation looks at it."""

  response: Image.Image


def test_progress_is_counted_against_the_images_before_training(tmp_path):
  queries = [Query([{'role': 'user', 'content': prompt}]) for prompt in ('a', 'ab', 'unseen')]
  dark, grey, light = (Image.new('RGB', (4, 4), (level,) * 3) for level in (10, 100, 200))
  against = Against(brighter, tmp_path / 'before')
  for image in (grey, light):  # the second evaluation changes nothing
    plan = Remembered(lambda sampler, ask, image=image: [[Drawn(image)]] * 2, tmp_path / 'before')
    plan(None, Ask(0, 0, [0, 1], queries[:2], ['a', 'ab']))
  for query in queries[:2]:  # they are shown in different orders
    assert [against(query, image) for image in (dark, grey, light)] == [0.0, 0.0, 1.0]
  assert against(queries[2], light) == 0.0


@pytest.mark.slow
def test_a_run_trains_the_transformer_and_leaves_one_that_fits_the_folder(folder, tmp_path):
  config = dataclasses.replace(CONFIG, model=str(folder))
  files = [write(tmp_path / f'{name}.jsonl', lines) for name, lines in PROMPTS.items()]
  task = task_of([str(files[0])], [str(files[1])])
  outcome = learn(config, tmp_path / 'run', task, brighter)
  before, _ = transformer_files.load(folder / 'transformer')
  after, weights = transformer_files.load(tmp_path / 'run' / 'model')
  assert after == before
  moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), weights, outcome.weights)
  assert max(jax.tree.leaves(moved)) < 1e-2
  assert len(list((tmp_path / 'run' / 'images').glob('*.png'))) >= 2
  assert outcome.before.accuracy == 0 < outcome.after.accuracy  # of a judge that wants light


def write(path, prompts):
  path.write_text(''.join(json.dumps({'prompt': prompt}) + '\n' for prompt in prompts))
  return path
