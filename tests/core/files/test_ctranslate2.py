"""CTranslate2's binary format, written here byte by byte."""

import struct

import numpy as np
import pytest

from core.files.formats import ctranslate2
from core.files.store import CheckpointError


def string(text):
  return struct.pack('<H', len(text) + 1) + text.encode() + b'\0'


def variable(name, array, code):
  head = string(name) + struct.pack('<B', array.ndim) + struct.pack(f'<{array.ndim}I', *array.shape)
  return head + struct.pack('<BI', code, array.nbytes) + array.tobytes()


MATRIX = np.arange(6, dtype=np.float16).reshape(2, 3)
WHOLE = (
  struct.pack('<I', 6)
  + string('WhisperSpec')
  + struct.pack('<II', 3, 2)
  + variable('a/weight', MATRIX, 4)
  + variable('a/heads', np.array(8, np.int16), 2)
  + struct.pack('<I', 1)
  + string('b/weight')
  + string('a/weight')
)


def test_variables_scalars_and_aliases(tmp_path):
  (tmp_path / 'model.bin').write_bytes(WHOLE)
  model = ctranslate2.read(tmp_path / 'model.bin')
  assert (model.spec, model.revision) == ('WhisperSpec', 3) and int(model.variables['a/heads']) == 8
  np.testing.assert_array_equal(model.variables['a/weight'], MATRIX)
  assert model.variables['b/weight'] is model.variables['a/weight']


@pytest.mark.parametrize('cut', [3, 10, 40, len(WHOLE) - 1])
def test_a_file_that_was_cut_off(tmp_path, cut):
  (tmp_path / 'model.bin').write_bytes(WHOLE[:cut])
  with pytest.raises(CheckpointError, match=r'model\.bin: not a CTranslate2 model'):
    ctranslate2.read(tmp_path / 'model.bin')


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (WHOLE + b'x', '1 bytes after the end'),
    (struct.pack('<I', 5) + WHOLE[4:], 'binary version 5'),
    (WHOLE.replace(struct.pack('<BI', 4, 12), struct.pack('<BI', 9, 12)), 'dtype code 9'),
    (WHOLE.replace(struct.pack('<BI', 4, 12), struct.pack('<BI', 4, 10)), 'a/weight: 10 bytes'),
    (WHOLE[: -len(string('a/weight'))] + string('c/weight'), 'b/weight stands for c/weight'),
  ],
)
def test_a_file_that_is_wrong(tmp_path, data, message):
  (tmp_path / 'model.bin').write_bytes(data)
  with pytest.raises(CheckpointError, match=message):
    ctranslate2.read(tmp_path / 'model.bin')
