"""Checkpoints behind URLs: they hold the same bytes as folders; only needed bytes are read, each once."""

import dataclasses
import json
import urllib.parse

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import internvl
from core import decoder
from core.files import shards, tensors
from core.files.store import CheckpointError, Folder
from core.files.tensors import Block, Files, Stored
from internvl.inputs.processor_config import ProcessorConfig

TINY = decoder.CONFIGS['tiny']


def url(driver: str, tmp_path) -> str:
  """An unused URL in a store of this kind."""
  path = urllib.parse.quote(f'{tmp_path}/a b%')
  return {'memory': f'memory://{path.strip("/")}', 'file': f'file://{path}', 'path': f'{tmp_path}/plain'}[driver]


@pytest.fixture
def read(monkeypatch) -> list[int]:
  """The sizes of the spans that are fetched."""
  sizes = []
  fetch = Folder.fetch

  def counting(self, spans):
    for span, data in fetch(self, spans):
      sizes.append(len(data))
      yield span, data

  monkeypatch.setattr(Folder, 'fetch', counting)
  return sizes


def draw(spec, seed: int = 0):
  """Float32 weights, drawn without compiling anything."""
  r = np.random.default_rng(seed)
  return jax.tree.map(lambda s: r.standard_normal(s.shape, np.float32), spec)


def equal(a, b) -> bool:
  return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)))


@pytest.mark.parametrize('driver', ['memory', 'file', 'path'])
def test_a_decoder_comes_back_from_every_store_and_each_byte_is_read_once(driver, tmp_path, read, monkeypatch):
  monkeypatch.setattr(shards, 'SHARD_BYTES', 150_000)
  where = url(driver, tmp_path)
  params = draw(decoder.spec(TINY))
  decoder.save(where, TINY, params)
  assert tensors.index_name() in Folder(where).names()
  read.clear()
  config, loaded = decoder.load(where)
  assert config == TINY and equal(params, loaded)
  stored = sum(w.nbytes for w in jax.tree.leaves(params))
  assert stored <= sum(read) <= stored + 20_000  # and the headers


def test_an_internvl_folder_round_trips_through_a_store(tmp_path):
  config = internvl.CONFIGS['tiny']
  processor = internvl.Processor.over_bytes(
    ProcessorConfig(image_size=config.vision.image_size, tokens_per_tile=config.tokens_per_tile, system='你好')
  )
  processor = internvl.Processor(processor.config, processor.tokenizer, stops=[65])
  config = dataclasses.replace(config, image_token=processor.image_id)
  params = draw(internvl.spec(config))
  for where in ('memory://internvl', tmp_path):
    internvl.save(where, config, params)
    processor.save(where)
  written, again = (Folder(str(where)) for where in (tmp_path, 'memory://internvl'))
  assert written.names() == again.names()
  assert all(written.read(name) == again.read(name) for name in again.names())
  assert equal(internvl.load('memory://internvl', dtype=jnp.float32)[1], params)
  loaded = internvl.Processor.load('memory://internvl')
  messages = [{'role': 'user', 'content': 'Hé!'}]
  assert loaded.config == processor.config and loaded.stop_ids == processor.stop_ids
  assert loaded(messages).tokens.tolist() == processor(messages).tokens.tolist()


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_half_of_a_tensor_is_half_of_the_bytes(axis, read, monkeypatch):
  monkeypatch.setattr(tensors, 'GAP', 64)
  whole = np.arange(64 * 64 * 32, dtype=np.float32).reshape(64, 64, 32)
  Folder('memory://half').write('model.safetensors', [save({'w': whole})])
  files = Files('memory://half')
  index = [slice(None)] * 3
  index[axis] = slice(whole.shape[axis] // 2, None)
  out = np.empty(whole[tuple(index)].shape, np.float32)
  read.clear()
  files.fill([('w', lambda w: w[tuple(index)], out)])
  assert (out == whole[tuple(index)]).all()
  assert sum(read) == whole.nbytes // 2


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_blocks_of_a_view_are_the_view(data):
  """Any box of any transposed tensor, cut into small blocks, is reassembled from its bytes."""
  shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
  whole = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  axes = data.draw(st.permutations(range(len(shape))))
  bounds = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in (shape[a] for a in axes)]
  take = lambda w: w.transpose(axes)[tuple(slice(*b) for b in bounds)]
  out = np.full(take(whole).shape, -1, np.float32)
  content = bytes(8) + whole.tobytes()
  with pytest.MonkeyPatch.context() as m:
    m.setattr(tensors, 'GAP', data.draw(st.integers(1, 64)))
    size = data.draw(st.integers(4, 64))
    blocks: list[Block] = list(tensors._blocks(Stored('f', 'F32', shape, 8, len(content)), take, out, size))
    assert all(block.stop - block.start <= size for block in blocks)
  for block in blocks:
    piece = content[block.start : block.stop]
    block.out[...] = np.ndarray(block.out.shape, block.dtype, piece, strides=block.strides)
  assert (out == take(whole)).all()


@pytest.mark.parametrize('driver', ['memory', 'path'])
def test_an_interrupted_save_leaves_no_checkpoint(driver, tmp_path, monkeypatch):
  monkeypatch.setattr(shards, 'SHARD_BYTES', 150_000)
  where = url(driver, tmp_path)
  decoder.save(where, TINY, draw(decoder.spec(TINY)))
  gathered, gather = [], shards.gather

  def fails(parts):
    gathered.append(parts)
    if len(gathered) == 9:
      raise OSError('disk full')
    return gather(parts)

  with monkeypatch.context() as m:
    m.setattr(shards, 'gather', fails)
    with pytest.raises(OSError, match='disk full'):
      decoder.save(where, TINY, draw(decoder.spec(TINY), 1))
  names = Folder(where).names()
  assert tensors.index_name() not in names and not any(name.endswith('.part') for name in names)
  monkeypatch.setattr(shards, 'SHARD_BYTES', 10**9)
  params = draw(decoder.spec(TINY), 2)
  decoder.save(where, TINY, params)  # a complete one overwrites the interrupted ones
  assert Folder(where).names() == ['config.json', 'model.safetensors']
  assert equal(decoder.load(where)[1], params)


def test_what_cannot_be_opened_is_named():
  with pytest.raises(CheckpointError, match=r'memory://nowhere/config\.json: no such file'):
    decoder.load('memory://nowhere')
  with pytest.raises(CheckpointError, match=r"ftp://a/b: scheme 'ftp'; expected a path, or a URL of file://, gs://"):
    decoder.load('ftp://a/b')
  with pytest.raises(CheckpointError, match='pass URLs as text'):
    decoder.load('gs:/bucket/model')


def test_a_bucket_without_credentials_is_named(monkeypatch):
  class Refused:
    def read(self, *_, **__):
      return self

    def result(self):
      raise ValueError('PERMISSION_DENIED: Anonymous caller\n does not have access')

  monkeypatch.setattr(Folder, '_store', Refused())
  with pytest.raises(CheckpointError, match=r'gs://b/m/config\.json: the store refuses \(PERMISSION_DENIED: .* cred'):
    decoder.load('gs://b/m')


HEADERS = {
  'a hole': ({'a': {'dtype': 'F32', 'shape': [2], 'data_offsets': [4, 12]}}, 'a begins at byte'),
  'a wrong size': ({'a': {'dtype': 'F32', 'shape': [3], 'data_offsets': [0, 8]}}, 'a has 8 bytes; expected 12'),
  'no offsets': ({'a': {'dtype': 'F32', 'shape': [2]}}, 'data_offsets'),
  'not an object': ([1], 'not a safetensors file'),
  'cut off': ({'a': {'dtype': 'F32', 'shape': [9], 'data_offsets': [0, 36]}}, 'OUT_OF_RANGE'),
}


@pytest.mark.parametrize('fault', HEADERS)
def test_a_wrong_header_is_named(fault):
  header, message = HEADERS[fault]
  text = json.dumps(header).encode()
  Folder('memory://wrong').write('model.safetensors', [len(text).to_bytes(8, 'little'), text, bytes(12)])
  with pytest.raises(CheckpointError, match=message) as error:
    Files('memory://wrong')
  assert 'memory://wrong/model.safetensors' in str(error.value)


def test_headers_are_those_of_the_safetensors_library():
  held = {
    'b': np.ones((2, 3), np.float16),
    'é': np.ones((), np.float32),
    'a': np.ones((4,), np.float32),
    'c': np.ones((0, 2), np.float16),
    'f': np.ones((2,), jnp.bfloat16),
  }
  head, order = tensors.header({name: (w.dtype, w.shape) for name, w in held.items()})
  assert head + b''.join(held[name].tobytes() for name in order) == save(held, metadata={'format': 'pt'})
  with pytest.raises(ValueError, match='int64'):
    tensors.header({'n': (np.dtype(np.int64), (1,))})
