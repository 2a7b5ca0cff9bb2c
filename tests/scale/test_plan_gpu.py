"""Steps compiled for GPUs that are not here: what the compiler made of them; `make gpu` installs the compiler."""

import json

import jax
import jax.numpy as jnp
import pytest

from core import mesh as mesh_lib
from core.plan import __main__, aot, chips, gpus, report
from internvl.plan import training as sft
from internvl.training.configs import Config

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not gpus.is_installed(), reason='the CUDA plugin is not installed: make gpu'),
]


def compiled(topology: str, config: Config):
  """(the plan of the supervised step, the optimised program)."""
  chip, _ = chips.parse(topology)
  on = mesh_lib.make(devices=chips.devices(topology))
  program = sft.plan_step(config, on)
  done = aot.compile_step(program, on)
  return report.make(topology, program, on, chip, done), done.text


@pytest.mark.parametrize('name', gpus.GPUS)
def test_every_gpu_of_the_table_compiles_a_product(name):
  (device,) = chips.devices(f'{name}:1')
  x = jax.ShapeDtypeStruct((512, 512), jnp.bfloat16, sharding=jax.sharding.SingleDeviceSharding(device))
  lowered = jax.jit(lambda x: jnp.tanh(x @ x)).lower(x)
  program = lowered.compile(compiler_options=gpus.OPTIONS)
  assert '__cublas$' in program.as_text()
  assert device.device_kind == f'NVIDIA {gpus.GPUS[name].name}'


def test_training_step_of_one_gpu_compiles():
  made, text = compiled('h200:1', Config('tiny', batch=2, length=256, tiles=2))
  memory = made.compiled.memory
  # Both towers attend by cuDNN: forward, and forward again and backward.
  assert text.count('custom_call_target="__cudnn$fmha') >= 6
  # Nothing is padded, and the state is donated.
  assert memory.arguments == pytest.approx(sum(made.by_kind.values()), abs=4096)
  assert memory.alias >= made.by_kind['weights'] + made.by_kind['optimiser state']
  assert memory.output - memory.alias < 64 * 1024  # metrics only
  # Activations, a few times the logits, and workspaces of cuBLAS.
  logits = 2 * 256 * 4 * 300
  assert memory.temporary < 48e6 + 20 * logits, memory
  assert made.fits and not made.collectives and made.roofline.ici == 0


def test_training_step_of_two_gpus_divides_the_weights():
  config = Config('tiny', batch=4, length=256, tiles=2)
  one, _ = compiled('a100:1', config)
  two, _ = compiled('a100:2', config)
  assert two.by_kind['weights'] == pytest.approx(one.by_kind['weights'] / 2, rel=0.1)
  kinds = {c.kind for c in two.collectives}
  assert {'all-gather', 'all-reduce'} <= kinds
  # Of the formula's three passes over the network two gather, and a device receives half of what they yield.
  gathered = sum(c.bytes for c in two.collectives if c.kind == 'all-gather')
  assert 1 <= gathered / (2 * 2 / 3 * two.work.ici['weights and gradients']) < 1.5
  assert two.roofline.ici > 0 and 'NVLink: weights' in report.text(two)


def test_a_plan_leaves_the_version_of_cudnn_as_it_was(tmp_path):
  from core.attention import cudnn

  before = cudnn.version()
  path = tmp_path / 'plan.json'
  flags = ('--topology=l4:1', '--program=internvl.train', '--config=tiny', '--batch=1', f'--json={path}')
  assert __main__.main(['plan', *flags]) == 0
  assert cudnn.version() == before
  assert json.loads(path.read_text())['fits']


def test_a_step_that_is_too_large_is_compiled_and_does_not_fit():
  made, _ = compiled('l4:1', Config('8B', batch=1, length=256, tiles=1))
  assert not made.fits and made.advice
  assert made.compiled.memory.total > made.chip.hbm
