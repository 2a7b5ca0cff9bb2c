"""A real training step compiled for TPUs that are not here: what the compiler made of it."""

import dataclasses
import math

import jax
import pytest

from core import mesh as mesh_lib
from core.plan import aot, chips, report
from internvl import configs
from internvl.plan import training as sft
from internvl.training.configs import Config
from rl import plan as gspo
from rl.configs import CONFIGS

pytest.importorskip('libtpu', reason="compiling for a TPU needs the extra 'plan'")


@pytest.fixture
def small(monkeypatch):
  """The tiny model with heads of 64, which splash takes, and a key head for every second query head."""
  tiny = configs.CONFIGS['tiny']
  made = dataclasses.replace(
    tiny, vision=dataclasses.replace(tiny.vision, heads=1), language=dataclasses.replace(tiny.language, head_dim=64)
  )
  monkeypatch.setitem(configs.CONFIGS, 'small', made)
  return Config('small', batch=8, length=256, tiles=2)


@pytest.mark.slow
@pytest.mark.parametrize('topology,axes', [('v5e:2x2', {'data': 4}), ('v5p:2x2x1', {'data': 1, 'model': 4})])
def test_training_step_compiles(small, topology, axes):
  chip, _ = chips.parse(topology)
  on = mesh_lib.make(**axes, devices=chips.devices(topology))
  program = sft.plan_step(small, on)
  compiled = aot.compile_step(program, on)
  made = report.make(topology, program, on, chip, compiled)
  assert made.fits and made.collectives

  # Splash forward, again forward, backward for dQ and for dK and dV: in the decoder and in the vision tower.
  assert compiled.text.count('custom_call_target="tpu_custom_call"') >= 8

  # The weights: every matrix is split, by as much as its sharding says.
  weights = program.kinds['weights']
  assert made.by_kind['weights'] == sum(
    4 * math.prod(w.sharding.shard_shape(w.shape)) for w in jax.tree.leaves(weights)
  )
  whole = 4 * sum(w.size for w in jax.tree.leaves(weights))
  assert whole / 4 <= made.by_kind['weights'] < whole / 2
  assert made.by_kind['optimiser state'] == pytest.approx(2 * made.by_kind['weights'], abs=64)

  # The compiler lays small arrays out in whole tiles, so it needs no less than the shardings say; state is donated.
  memory = compiled.memory
  assert sum(made.by_kind.values()) <= memory.arguments < 20 * sum(made.by_kind.values())
  assert memory.alias >= made.by_kind['weights'] + made.by_kind['optimiser state']
  assert memory.output - memory.alias < 64 * 1024  # metrics only

  # A device works on 2 rows (or 8, with a quarter of the heads), and holds a few times their logits at most.
  rows = small.batch // on.shape['data']
  logits = rows * small.length * 4 * 300
  assert memory.temporary < 12e6 + 20 * logits, memory
  assert 'FITS' in report.text(made)


@pytest.mark.slow
def test_policy_update_compiles(small):
  """Answers on more devices than there are prompts; long enough for splash to join them to their prompts."""
  chip, _ = chips.parse('v5p:2x2x1')
  on = mesh_lib.make(data=2, expert=2, devices=chips.devices('v5p:2x2x1'))
  config = dataclasses.replace(
    CONFIGS['8b_gspo'], model='small', prompts=64, group=4, accumulate=2, prompt_length=256, tiles=2, max_new=1152
  )
  program = gspo.plan_step(config, on)
  compiled = aot.compile_step(program, on)
  made = report.make('', program, on, chip, compiled)
  assert made.fits and made.collectives
  # Prompts and answers to them: forward, forward again, and two kernels backward. Tiles, not trained: forward.
  assert 9 <= compiled.text.count('custom_call_target="tpu_custom_call"') < 12

  # A device works on 2 of a micro-batch's 8 answers, and holds a few times the logits of one piece of them at most.
  logits = 2 * 1024 * 4 * 300
  assert compiled.memory.temporary < 12e6 + 20 * logits, compiled.memory
