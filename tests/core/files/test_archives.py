"""Torch archives written here, byte by byte: values and strides, and files that must not be believed."""

import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from core.files.formats import archives
from core.files.store import CheckpointError
from tests.core.files.torch_archives import Call, Global, Storage, archive, tensor


@pytest.mark.parametrize(
  ('kind', 'dtype'),
  [('FloatStorage', np.float32), ('HalfStorage', np.float16), ('BFloat16Storage', ml_dtypes.bfloat16)],
)
def test_values_and_strides(tmp_path, kind, dtype):
  values = np.arange(24).astype(dtype)
  cache = tensor(Storage(kind, '0', 24), 0, (1, 2, 3, 4), (24, 4, 8, 1))
  inner = Call(Global('transformers.cache_utils', 'DynamicCache'), state={'key_cache': [cache], '_seen_tokens': 3})
  path = archive(tmp_path / 'x.pt', {'lm': inner, 'n': 7}, {'0': values.tobytes()})
  read = archives.read(path)
  got = read['lm']['key_cache'][0]
  assert read['n'] == 7 and read['lm']['_seen_tokens'] == 3 and got.dtype == dtype
  np.testing.assert_array_equal(got, values.reshape(1, 3, 2, 4).swapaxes(1, 2))


@pytest.mark.parametrize('name', ['os.system', 'builtins.eval', 'torch.load', 'torch.storage._load_from_bytes'])
def test_no_other_class_is_known(tmp_path, name):
  module, _, attribute = name.rpartition('.')
  marker = tmp_path / 'ran'
  path = archive(tmp_path / 'x.pt', Call(Global(module, attribute), f'touch {marker}'))
  with pytest.raises(CheckpointError, match=rf'x\.pt.*{name}'):
    archives.read(path)
  assert not marker.exists()


def test_a_file_cannot_change_what_the_next_one_calls(tmp_path):
  state = (None, {'function': 3})
  rebuild = Global('torch._utils', '_rebuild_tensor_v2')
  program = b'\x80\x02c' + f'{rebuild.module}\n{rebuild.name}\n'.encode() + pickle.dumps(state, 2)[2:-1] + b'b.'
  path = tmp_path / 'x.pt'
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr('saved/data.pkl', program)
  with pytest.raises(CheckpointError, match='state'):
    archives.read(path)


@pytest.mark.parametrize(
  ('offset', 'shape', 'strides', 'message'),
  [
    (0, (7,), (1,), 'reaches'),
    (5, (2,), (1,), 'reaches'),
    (-1, (2,), (1,), 'offset -1'),
    (0, (2, 2), (1,), 'strides'),
    (0, (2,), (-1,), 'strides'),
  ],
)
def test_a_tensor_stays_in_its_storage(tmp_path, offset, shape, strides, message):
  data = np.arange(6, dtype=np.float32).tobytes()
  value = tensor(Storage('FloatStorage', '0', 6), offset, shape, strides)
  with pytest.raises(CheckpointError, match=message):
    archives.read(archive(tmp_path / 'x.pt', value, {'0': data}))


def test_files_that_are_no_archives(tmp_path):
  cut = archive(tmp_path / 'cut.pt', tensor(Storage('FloatStorage', '0', 6), 0, (6,), (1,)), {'0': b'1234'})
  with pytest.raises(CheckpointError, match='4 bytes; expected 24'):
    archives.read(cut)
  (tmp_path / 'old.pt').write_bytes(pickle.dumps({'a': 1}, 2))
  with pytest.raises(CheckpointError, match=r'old\.pt: not a torch archive'):
    archives.read(tmp_path / 'old.pt')
  with zipfile.ZipFile(tmp_path / 'none.pt', 'w') as file:
    file.writestr('saved/other', struct.pack('<I', 1))
  with pytest.raises(CheckpointError, match=r'0 members data\.pkl'):
    archives.read(tmp_path / 'none.pt')
  bomb = archive(tmp_path / 'bomb.pt', {'a': 'x' * 10_000}, compression=zipfile.ZIP_DEFLATED)
  with pytest.raises(CheckpointError, match='compressed'):
    archives.read(bomb)
