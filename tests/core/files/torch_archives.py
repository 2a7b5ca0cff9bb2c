"""Writes torch's archives without torch, byte by byte, also ones that must not be believed."""

import io
import pickle
import zipfile


class Written(pickle._Pickler):
  """Writes torch's names and storages without torch."""

  def persistent_id(self, obj):
    return obj.pid if isinstance(obj, Storage) else None

  def save(self, obj, save_persistent_id=True):
    if isinstance(obj, Global):
      self.write(b'c' + obj.module.encode() + b'\n' + obj.name.encode() + b'\n')
      return None
    return super().save(obj, save_persistent_id)


class Global:
  """A name that the pickle mentions."""

  def __init__(self, module, name):
    self.module, self.name = module, name

  def __call__(self):
    """Never called: `copyreg` asks that it could be."""


class Storage:
  def __init__(self, kind, key, count):
    self.pid = ('storage', Global('torch', kind), key, 'cuda:0', count)


class Call:
  """An object that is made by calling a name."""

  def __init__(self, name, *args, state=None):
    self.how = (name, args) if state is None else (name, args, state)

  def __reduce__(self):
    return self.how


def tensor(storage, offset, shape, strides):
  return Call(Global('torch._utils', '_rebuild_tensor_v2'), storage, offset, shape, strides, False, {})


def archive(path, value, storages=None, compression=zipfile.ZIP_STORED):
  buffer = io.BytesIO()
  Written(buffer, protocol=2).dump(value)
  with zipfile.ZipFile(path, 'w', compression) as file:
    file.writestr('saved/data.pkl', buffer.getvalue())
    file.writestr('saved/byteorder', 'little')
    for key, data in (storages or {}).items():
      file.writestr(f'saved/data/{key}', data)
  return path
