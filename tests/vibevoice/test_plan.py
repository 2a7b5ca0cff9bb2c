"""What the planner counts of training and of a frame, what it refuses; both compiled, tiny, for TPUs not here."""

import dataclasses
import re

import pytest

from core import mesh as mesh_lib
from core.params import count
from core.plan import PlanError, aot, chips, report
from vibevoice import config as configs
from vibevoice import model
from vibevoice.plan import frame, training

ONE = mesh_lib.abstract()
SEVEN, SMALL = configs.CONFIGS['7B'], configs.CONFIGS['1.5B']


def test_training_counts_every_weight_once_and_the_head_once_a_draw():
  config = training.CONFIGS['7b_32k']
  parts = training.parts(config, SEVEN)
  assert sum(count(part.spec) for part in parts) == count(model.spec(SEVEN))
  by_name = {part.name: part for part in parts}
  assert by_name['diffusion head'].tokens == 16 * 20_480 * 4
  assert by_name['language model'].tokens == 16 * 32_768
  batch = training.abstract_batch(config, SEVEN)
  assert batch.tokens.shape == (16, 32_768) and batch.latents.shape == (16, 20_480, 64)


def test_work_of_a_frame_is_that_of_the_fact_sheet():
  """Bytes of the sheet, §4 and §8: 3.1 GB of language model, ten times 0.25 GB of head, 28,672 B a position."""
  config = dataclasses.replace(frame.CONFIGS['1.5b'], rows=1)
  work = frame.plan_step(config, ONE).counted
  assert work.parameters == 2_704_021_987
  assert work.hbm['language model'] == pytest.approx(2 * 1_310_340_608, rel=0.01)  # without the table of 233 M
  assert work.hbm['diffusion head'] == pytest.approx(10 * 2 * 123.3e6, rel=0.03)
  assert work.hbm['caches'] == pytest.approx(2 * 65_536 * 28_672, rel=1e-3)  # and the positions' numbers
  decoder = [part for part in frame.parts(config, SMALL) if part.name.startswith('decoder')]
  done = sum(2 * part.tokens * frame._active(part, ONE) for part in decoder)
  assert done == pytest.approx(3.63e9, rel=0.03)  # §2.3
  blocks = {
    name: [part.tokens for part in frame.parts(config, SMALL) if part.name.startswith(name) and 'blocks' in part.name]
    for name in ('decoder', 'encoder')
  }
  assert blocks == {'decoder': [1, 8, 40, 200, 800, 1600, 3200], 'encoder': [3200, 1600, 800, 200, 40, 8, 1]}


def test_refusals():
  for name in ('8B', 'Realtime-0.5B'):
    with pytest.raises(PlanError, match='a plan needs the name of a TTS model'):
      training.size(name)


@pytest.fixture
def small(monkeypatch):
  """The tiny model with heads of 64, which splash takes, and two of them."""
  tiny = configs.CONFIGS['tiny']
  language = dataclasses.replace(tiny.language, width=128, heads=2, kv_heads=2, head_dim=64, vocab=512)
  head = dataclasses.replace(tiny.head, width=128)
  monkeypatch.setitem(configs.CONFIGS, 'small', dataclasses.replace(tiny, language=language, head=head))
  return 'small'


@pytest.mark.slow
def test_a_tiny_training_step_compiles_for_a_tpu(small):
  pytest.importorskip('libtpu', reason="compiling for a TPU needs the extra 'plan'")
  config = dataclasses.replace(training.CONFIGS['7b_32k'], model=small, batch=4, length=256, frames=128)
  on = mesh_lib.make(data=2, model=2, devices=chips.devices('v5p:2x2x1'))
  program = training.plan_step(config, on)
  made = report.make('small', program, on, chips.CHIPS['v5p'], aot.compile_step(program, on))
  assert made.fits and 'rows of 256 tokens, of which 128 are frames' in report.text(made)
  # Frames stay on the devices of their rows: the head's hidden units of all frames are on no device.
  hidden = 3 * 128 // 2
  assert f'[{2 * 128},{hidden}]' in made.compiled.text
  assert f'[{4 * 128},{hidden}]' not in made.compiled.text


@pytest.mark.slow
@pytest.mark.parametrize('devices', [1, 4])
def test_a_tiny_frame_step_compiles_for_tpus(small, devices):
  pytest.importorskip('libtpu', reason="compiling for a TPU needs the extra 'plan'")
  config = frame.Config(small, rows=2 * devices, slots=256, steps=2)
  on = mesh_lib.make(data=devices, devices=chips.devices('v5p:2x2x1')[:devices])
  program = frame.plan_step(config, on)
  made = report.make('small', program, on, chips.CHIPS['v5p'], aot.compile_step(program, on))
  assert made.fits
  # The caches are donated and written in place, by the device that holds a row: no instruction copies or gathers one.
  assert made.compiled.memory.alias >= made.by_kind['caches']
  layers, rows, *rest = program.kinds['caches'].k.shape
  own = ','.join(map(str, (layers, rows // devices, *rest)))
  whole = ','.join(map(str, (layers, rows, *rest)))
  assert re.search(rf'bf16\[{own}\]\S* dynamic-update-slice', made.compiled.text)
  assert not re.search(rf'bf16\[({own}|{whole})\]\S* (copy|transpose|scatter|all-gather)\(', made.compiled.text)
