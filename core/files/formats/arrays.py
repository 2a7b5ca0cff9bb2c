"""Tensors in memory in the place of safetensors files, so that every format loads through one tree of names."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from core.files import copying
from core.files.tensors import DTYPES, Stored

CODES = {dtype: code for code, dtype in DTYPES.items()}


class Arrays:
  """Numpy arrays by name, with what `core.files.weights` asks of `core.files.tensors.Files`.

  source: the file they come from, for messages.
  """

  def __init__(self, source: str, arrays: Mapping[str, np.ndarray]):
    self.folder = source
    self._arrays = arrays
    self.tensors = {
      name: Stored(source, CODES.get(array.dtype, str(array.dtype)), array.shape, 0, array.nbytes)
      for name, array in arrays.items()
    }

  def __contains__(self, name: str) -> bool:
    return name in self.tensors

  def fill(self, wanted: Iterable[tuple[str, Callable[[np.ndarray], np.ndarray], np.ndarray]]) -> None:
    """Copies `take(tensor)` of each (name, take, out) into `out`, cast to its dtype."""
    for name, take, out in wanted:
      copying.copy(take(self._arrays[name]), out)
