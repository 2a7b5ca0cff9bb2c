"""Checkpoint files: faults are named before memory is spent, shards stream within the memory promised."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from core import decoder, params
from core.decoder import hf_config
from core.files import shards, weights
from core.files.config import CheckpointError
from core.files.tensors import Files
from core.training import lora

TINY = decoder.CONFIGS['tiny']
NORM, GATE = 'model.norm.weight', 'model.layers.1.mlp.gate_proj.weight'


@pytest.fixture(scope='module')
def saved(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('tiny')
  decoder.save(folder, TINY, decoder.init(jax.random.key(0), TINY))
  return folder


def rewritten(saved, folder, change):
  """A copy of the checkpoint with its tensors changed."""
  tensors = load_file(saved / 'model.safetensors')
  change(tensors)
  save_file(tensors, folder / 'model.safetensors')
  (folder / 'config.json').write_bytes((saved / 'config.json').read_bytes())
  return folder


@pytest.fixture
def no_memory(monkeypatch):
  """Fails when the loader starts to read or place anything."""

  def forbidden(*a, **k):
    raise AssertionError('the loader spent memory before its checks were complete')

  monkeypatch.setattr(weights, '_stream', forbidden)
  monkeypatch.setattr(Files, 'fill', forbidden)


TENSOR_FAULTS = {
  'missing': (lambda t: t.pop(GATE), f'{GATE}: missing'),
  'extra': (lambda t: t.update(adapter=np.zeros(3, np.float32)), 'adapter: not part of this model'),
  'misshapen': (lambda t: t.update({GATE: t[GATE].T.copy()}), f'{GATE}: shape (64, 160), the model expects (160, 64)'),
  'wrong dtype': (lambda t: t.update({NORM: t[NORM].astype(np.int32)}), f'{NORM}: dtype I32'),
}


@pytest.mark.parametrize('fault', TENSOR_FAULTS)
def test_a_faulty_tensor_is_named(fault, saved, tmp_path, no_memory):
  change, message = TENSOR_FAULTS[fault]
  rewritten(saved, tmp_path, change)
  with pytest.raises(CheckpointError) as e:
    decoder.load(tmp_path)
  assert message in str(e.value) and '1 tensors' in str(e.value)


def test_every_fault_is_in_one_error(saved, tmp_path, no_memory):
  changes = [TENSOR_FAULTS[fault][0] for fault in ('extra', 'misshapen', 'wrong dtype')]
  rewritten(saved, tmp_path, lambda t: [change(t) for change in changes])
  with pytest.raises(CheckpointError) as e:
    decoder.load(tmp_path)
  assert all(word in str(e.value) for word in (GATE, NORM, 'adapter', '3 tensors'))


@pytest.mark.parametrize('keep', [0, 4, 500, -1])
def test_a_truncated_file_is_named(keep, saved, tmp_path, no_memory):
  rewritten(saved, tmp_path, lambda t: None)
  file = tmp_path / 'model.safetensors'
  file.write_bytes(file.read_bytes()[:keep])
  with pytest.raises(CheckpointError, match=r'model\.safetensors'):
    decoder.load(tmp_path)


def test_folder_faults_are_named(saved, tmp_path, no_memory):
  with pytest.raises(CheckpointError, match='nowhere'):
    decoder.load(tmp_path / 'nowhere')
  (tmp_path / 'config.json').write_bytes((saved / 'config.json').read_bytes())
  with pytest.raises(CheckpointError, match=r'expected \.safetensors files; the folder holds config'):
    decoder.load(tmp_path)
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': {NORM: 'model-00001-of-00002.safetensors'}}))
  with pytest.raises(CheckpointError, match='model-00001-of-00002'):
    decoder.load(tmp_path)
  index.write_text('{"weight_map": ')
  with pytest.raises(CheckpointError, match=r'index\.json'):
    decoder.load(tmp_path)
  (tmp_path / 'config.json').write_text('[')
  with pytest.raises(CheckpointError, match=r'config\.json'):
    decoder.load(tmp_path)


def test_an_index_that_disagrees_with_its_files_is_named(saved, tmp_path, no_memory):
  rewritten(saved, tmp_path, lambda t: None)
  names = dict.fromkeys(load_file(saved / 'model.safetensors'), 'model.safetensors')
  index = {'weight_map': names | {'ghost': 'model.safetensors'}}
  (tmp_path / 'model.safetensors.index.json').write_text(json.dumps(index))
  with pytest.raises(CheckpointError, match='ghost'):
    decoder.load(tmp_path)


@pytest.mark.parametrize(
  'key',
  [
    'model_type',
    'vocab_size',
    'hidden_size',
    'num_hidden_layers',
    'num_attention_heads',
    'num_key_value_heads',
    'intermediate_size',
    'rms_norm_eps',
    'max_position_embeddings',
  ],
)
def test_a_missing_config_key_is_named(key, saved, tmp_path, no_memory):
  rewritten(saved, tmp_path, lambda t: None)
  h = json.loads((saved / 'config.json').read_text())
  del h[key]
  (tmp_path / 'config.json').write_text(json.dumps(h))
  with pytest.raises(CheckpointError, match=key):
    decoder.load(tmp_path)


def test_a_huge_model_is_refused_without_its_memory(saved, tmp_path):
  rewritten(saved, tmp_path, lambda t: None)
  huge = dataclasses.replace(decoder.CONFIGS['qwen3-235b-a22b'], tied=True)
  (tmp_path / 'config.json').write_text(json.dumps(hf_config.config_to(huge)))
  with pytest.raises(CheckpointError, match='do not fit the model'):
    decoder.load(tmp_path)


def test_save_leaves_nothing_half_written(tmp_path, monkeypatch):
  def fails(*a, **k):
    raise OSError('disk full')

  monkeypatch.setattr(shards, 'gather', fails)
  with pytest.raises(OSError, match='disk full'):
    decoder.save(tmp_path, TINY, decoder.init(jax.random.key(0), TINY))
  assert not list(tmp_path.iterdir())


def test_sharded_save_round_trips(saved, tmp_path, monkeypatch):
  monkeypatch.setattr(shards, 'SHARD_BYTES', 60_000)
  config, loaded = decoder.load(saved, dtype=jnp.float32)
  decoder.save(tmp_path, config, loaded)
  written = sorted(tmp_path.glob('*.safetensors'))
  index = json.loads((tmp_path / 'model.safetensors.index.json').read_text())
  assert len(written) > 3 and set(index['weight_map'].values()) == {s.name for s in written}
  want, got = load_file(saved / 'model.safetensors'), {}
  for shard in written:
    got |= load_file(shard)
  assert index['metadata']['total_size'] == sum(w.nbytes for w in want.values())
  assert got.keys() == want.keys() and all((got[k] == want[k]).all() for k in want)
  again = decoder.load(tmp_path, dtype=jnp.float32)[1]
  assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), loaded, again)))


def test_adapted_and_unstacked_weights_are_saved_plain(saved, tmp_path):
  config, loaded = decoder.load(saved, dtype=jnp.float32)
  adapted = lora.adapt(jax.random.key(1), loaded, decoder.spec(config), r'blocks\.attn\.q', rank=3)
  decoder.save(tmp_path, config, adapted.replace(blocks=params.unstack(adapted.blocks)))
  assert (tmp_path / 'model.safetensors').read_bytes() == (saved / 'model.safetensors').read_bytes()


def test_casts_are_rounded_once(saved):
  exact, rounded = (decoder.load(saved, dtype=d)[1] for d in (jnp.float32, jnp.bfloat16))
  want = np.asarray(exact.blocks.mlp.gate).astype(ml_dtypes.bfloat16)
  assert (np.asarray(rounded.blocks.mlp.gate) == want).all()


MEASURE = """
import os, sys, threading, time
folder, dtype, devices = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0'
import jax, jax.numpy as jnp
from core import decoder, mesh
def anonymous():
  with open('/proc/self/status') as f:
    return next(int(line.split()[1]) * 1024 for line in f if line.startswith('RssAnon'))
small = sys.argv[4]
on = mesh.make(data=2, model=4) if devices == 8 else None
decoder.load(small, dtype=dtype, mesh=on)  # the loader's own programs and libraries
peak, stop, before = 0, False, anonymous()
def watch():
  global peak
  while not stop:
    peak = max(peak, anonymous())
    time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
config, params = decoder.load(folder, dtype=dtype, mesh=on)
jax.block_until_ready(params)
stop = True
thread.join()
size = sum(w.nbytes for w in jax.tree.leaves(params))
print((max(peak, anonymous()) - before) / size, size)
"""


@pytest.mark.slow
@pytest.mark.parametrize('stored', ['bfloat16', 'float32'])
@pytest.mark.parametrize('devices', [1, 8])
def test_loading_streams(stored, devices, tmp_path, saved):
  """Peak anonymous host memory of loading about 300 MB in bfloat16: the parameters and at most a tenth more."""
  config = dataclasses.replace(
    TINY, width=1024, depth=12, heads=8, kv_heads=4, head_dim=64, mlp_width=3072, vocab=16000, tied=False
  )
  dtype = jnp.dtype(stored)
  ones = jax.tree.map(lambda s: np.ones(s.shape, dtype), decoder.spec(config))
  with pytest.MonkeyPatch.context() as m:
    m.setattr(shards, 'SHARD_BYTES', 100 * 10**6)
    decoder.save(tmp_path, config, ones)
  out = subprocess.run(
    [sys.executable, '-c', MEASURE, str(tmp_path), 'bfloat16', str(devices), str(saved)],
    capture_output=True,
    text=True,
    check=False,
    cwd=pathlib.Path(__file__).parents[3],
  )
  assert out.returncode == 0, out.stderr
  ratio, size = map(float, out.stdout.split())
  assert size > 250e6
  assert ratio <= 1.1, f'peak of {ratio:.3f} times the model'
