"""Fine-tuning: what a packed row teaches, what is trained, what is exported."""

import dataclasses
import json
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import internvl
from core import mesh, params
from core.launch import job as launch
from core.launch.errors import USER_ERRORS, UsageError
from core.training import optim, steps
from internvl import losses
from internvl import train as program
from internvl.data import packing
from internvl.inputs.processor import Inputs
from internvl.training import sft
from internvl.training.configs import CONFIGS, Lora
from tests.internvl.tiny import IMAGES, model, processor

TINY = dataclasses.replace(
  CONFIGS['tiny'], batch=2, length=192, tiles=9, steps=3, optim=optim.Optim(lr=1e-2, weight_decay=0.1)
)


def sample(text: str, images, answer: str) -> Inputs:
  talk = [{'role': 'user', 'content': '<image>' * len(images) + text}, {'role': 'assistant', 'content': answer}]
  return processor()(talk, images)


SAMPLES = [
  sample('sum?', IMAGES[:1], '12'),
  sample('hello', [], 'a longer answer'),
  sample('both?', IMAGES[1:3], 'yes'),
]


class Given(list):
  """Samples in place of `Examples`."""

  processor = processor()


def row(samples, c=TINY) -> losses.Batch:
  """The samples packed into one row, in order."""
  import grain

  stream = grain.MapDataset.source(samples).map(lambda x: packing.features(x, Given.processor.image_id, c))
  rows = next(iter(packing.data.pack(stream.to_iter_dataset(), packing.budgets(c), rows=1)))
  return packing.batch({name: x[None] for name, x in rows.items()})


@pytest.fixture(scope='module')
def tiny():
  config, weights = model(processor())
  stacked = jax.tree.map(lambda *w: jnp.stack(w), *weights.language.blocks)
  return config, weights.replace(language=weights.language.replace(blocks=stacked))


@pytest.mark.slow
@pytest.mark.parametrize('averaging', losses.AVERAGING)
def test_a_packed_row_teaches_what_its_samples_do_apart(tiny, averaging):
  config, weights = tiny
  c = dataclasses.replace(TINY, averaging=averaging)
  loss = jax.jit(lambda w, b: jax.value_and_grad(lambda w: losses.ntp(w, config, b).total)(w))
  whole, gradient = loss(weights, row(SAMPLES, c))
  apart = [loss(weights, row([x], c)) for x in SAMPLES]
  np.testing.assert_allclose(whole, sum(total for total, _ in apart), rtol=1e-5)
  summed = jax.tree.map(lambda *g: sum(g), *(g for _, g in apart))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), gradient, summed)


def test_square_averaging_by_hand():
  """Two samples with 1 and 4 learned tokens, CE 2 each in the first and 1 in the second: (2 + 4/2) / (1 + 4/2)."""
  one, four = (losses.token_weights(np.arange(6) >= 6 - x, 'square') for x in (1, 4))
  total = (one * 2.0).sum() + (four * 1.0).sum()
  np.testing.assert_allclose(total / (one.sum() + four.sum()), 4 / 3)
  assert row(SAMPLES).weights.sum() == pytest.approx(sum(np.sqrt(x.mask.sum()) for x in SAMPLES))


def test_long_samples_end_before_the_image_they_would_cut():
  x = SAMPLES[2]  # two images of three tiles
  second = np.flatnonzero(x.tokens == processor()._ids['<img>'])[1]
  multi = dataclasses.replace(x, mask=np.ones_like(x.mask))
  image_id = Given.processor.image_id
  for length in (second + 1, second + 5):
    y = packing.shorten(multi, image_id, length, 8)
    assert len(y.tokens) == second and y.tiles.tolist() == [3] and len(y.pixels) == 3
  assert len(packing.shorten(multi, image_id, len(x.tokens), 5).tokens) == second
  assert len(packing.shorten(multi, image_id, len(x.tokens) - 1, 8).tokens) == len(x.tokens) - 1
  gone = packing.shorten(x, image_id, second, 8)  # nothing to learn is left
  assert len(gone.tokens) == 1 and not len(gone.pixels)
  c = dataclasses.replace(TINY, length=30)
  features = packing.features(x, image_id, c)
  assert features[packing.CUT].sum() == 1 and features['weights'].sum() == 0
  with pytest.raises(ValueError, match='expected at most 30'):
    packing.features(x, image_id, dataclasses.replace(c, too_long='refuse'))


@pytest.mark.slow
def test_rows_do_not_depend_on_the_number_of_processes():
  parts = [Given(SAMPLES * 5)]
  c = dataclasses.replace(TINY, batch=4)
  whole = packing.batches(parts, c, which=0, many=1)
  halves = [packing.batches(parts, c, which=i, many=2) for i in range(2)]
  for _ in range(3):
    a, b = next(whole), [next(h) for h in halves]
    for name in a:
      np.testing.assert_array_equal(a[name], np.concatenate([x[name] for x in b]))
  with pytest.raises(ValueError, match='cannot be shared by 3'):
    packing.batches(parts, c, which=0, many=3)


def trained(tiny, c):
  """(parameters before, after) three steps."""
  config, weights = tiny
  copy = jax.tree.map(jnp.copy, weights)
  some, frozen = sft.adapt(c, config, copy)
  before = jax.tree.map(np.asarray, steps.merge(some, frozen))
  state, step = steps.init_state(some, sft.optimizer(c, config)), sft.make_step(c, config)
  batch = jax.tree.map(lambda x: jnp.concatenate([x, x]), row(SAMPLES, c))
  for i in range(c.steps):
    state, metrics = step(state, frozen, batch, jax.random.key(i))
  assert metrics['skipped'] == 0
  return before, steps.merge(state.params, frozen)


def changed(before, after) -> set[str]:
  same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), before, after)
  return {params.path_name(path) for path, equal in jax.tree.leaves_with_path(same) if not equal}


@pytest.mark.slow
def test_frozen_parts_do_not_change_by_a_bit(tiny):
  names = changed(*trained(tiny, dataclasses.replace(TINY, trainable=r'projector\..*', drop_path=0.1)))
  assert names and all(name.startswith('projector.') for name in names)
  assert len(names) == len(jax.tree.leaves(tiny[1].projector))


@pytest.mark.slow
def test_adapters_alone_are_trained_and_export_folded(tiny, tmp_path):
  config, _ = tiny
  before, after = trained(tiny, dataclasses.replace(TINY, lora=Lora(rank=2)))
  names = changed(before, after)
  assert names and all(name.endswith(('.a', '.b')) for name in names)
  program.export(tmp_path / 'model', config, after, processor(), layout='A')
  read, plain = internvl.load(tmp_path / 'model', dtype='float32')
  batch = row(SAMPLES)
  untrained, adapted, folded = (
    internvl.apply(
      w, config, batch.tokens, pixels=batch.pixels, positions=batch.positions, segments=batch.segments
    ).logits
    for w in (before, after, plain)
  )
  assert read.language == config.language
  # Logits reach 9; x (W + ab) and xW + (xa)b round differently in float32. Training moves them far more.
  np.testing.assert_allclose(adapted, folded, atol=5e-4)
  assert np.abs(adapted - untrained).max() > 5e-2


@pytest.mark.slow
@pytest.mark.parametrize(
  'change, why',
  [
    ({'model': '8B'}, 'tokenizer'),
    ({'model': '/nowhere'}, '/nowhere'),
    ({'data': ('gone.jsonl',)}, 'gone.jsonl'),
    ({'data': ('rows.txt',)}, 'suffix'),
    ({'trainable': 'nothing'}, 'matches none'),
    ({'lora': Lora(rank=2, pattern='nothing')}, 'matches'),
    ({'mesh': mesh.Shape(model=7)}, 'devices'),
  ],
)
def test_what_cannot_be_is_one_line(tmp_path, change, why):
  with pytest.raises(USER_ERRORS, match=why):
    program.main(dataclasses.replace(TINY, **change), tmp_path)
  assert not (tmp_path / 'model').exists()


def test_impossible_configs_are_refused():
  for flag, why in {
    'batch=3': 'accumulate',
    'weights=1,2': '2 numbers for 0',
    'drop_path=1': 'drop_path',
    'averaging=cube': 'averaging',
    'lora.rank=-1': 'rank',
  }.items():
    with pytest.raises(UsageError, match=why):
      launch.parse(CONFIGS, 'tiny', ['train', '--config.accumulate=2', f'--config.{flag}'])


SHORT = ['--config.batch=2', '--config.steps=24', '--config.save_every=4', '--config.heldout_rows=8']


def start(workdir, *more) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, '-m', 'internvl.train', f'--workdir={workdir}', *SHORT, *more],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def logged(workdir) -> list[dict]:
  path = workdir / 'metrics.jsonl'
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_killed_and_started_again_it_ends_the_same(tmp_path):
  """From nothing to an answer: killed once, it ends bit for bit as one that was not."""
  whole = start(tmp_path / 'whole')
  out, err = whole.communicate(timeout=900)
  assert whole.returncode == 0 and 'of 8 answers exact' in out, err
  first = start(tmp_path / 'killed')
  while len(logged(tmp_path / 'killed')) < 10:
    assert first.poll() is None, first.communicate()
    time.sleep(0.02)
  first.send_signal(signal.SIGKILL)
  first.communicate()
  assert len(logged(tmp_path / 'killed')) < 24 and not (tmp_path / 'killed' / 'model').exists()
  again = start(tmp_path / 'killed')
  out, err = again.communicate(timeout=900)
  assert again.returncode == 0 and 'resuming after step' in err, err
  assert (tmp_path / 'killed' / 'metrics.jsonl').read_bytes() == (tmp_path / 'whole' / 'metrics.jsonl').read_bytes()
  files = [tmp_path / run / 'model' / 'model.safetensors' for run in ('whole', 'killed')]
  assert files[0].read_bytes() == files[1].read_bytes()
  ask = [
    f'--model={tmp_path}/whole',
    '--prompt=What is the sum?',
    f'--image={tmp_path}/whole/digits/heldout/000000.png',
  ]
  said = subprocess.run([sys.executable, '-m', 'internvl.chat', *ask], capture_output=True, text=True)
  assert said.returncode == 0 and said.stdout.endswith('\n'), said.stderr


def test_right_answers_are_counted_by_question():
  answered = [program.Answered('Sum?', n < 6) for n in range(8)] + [program.Answered('Larger?', True)] * 9
  answered += [program.Answered('Asked once?', False)]
  total, larger, sums = program.shares_right(answered)
  assert total.strip().startswith('15 of 18 answers exact: 0.833 (95% interval 0.')
  assert larger.startswith('  Larger?  9 of 9 answers exact: 1.000') and sums.startswith(
    '  Sum?  6 of 8 answers exact: 0.750'
  )
  assert len(program.shares_right(answered[:8])) == 1, 'one question needs no list'
