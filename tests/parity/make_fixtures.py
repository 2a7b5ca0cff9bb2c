"""Writes tests/parity/fixtures: published files of tiny random models and all that `transformers` computes with them.

Needs torch. Run as `python -m tests.parity.make_fixtures` from the root; the draws are seeded.
"""

import pathlib

import numpy as np

from tests.parity import reference

FOLDER = pathlib.Path(__file__).parent / 'fixtures'
LIMIT = 10**6  # bytes a file


def make(case: str) -> None:
  """The files of one case."""
  folder = FOLDER / case
  net, x = reference.model(case), reference.inputs(case)
  reference.save(net, folder)
  out = reference.run(net, x)
  reference.save_gradients(net, folder / 'gradients')
  (folder / 'gradients' / 'config.json').unlink()
  np.savez(folder / 'reference.npz', greedy=reference.greedy(net, x), **{f'input.{k}': v for k, v in x.items()}, **out)
  for file in folder.rglob('*.*'):
    assert file.stat().st_size <= LIMIT, file
  print(case, sum(f.stat().st_size for f in folder.rglob('*.*')) // 1000, 'kB')


if __name__ == '__main__':
  for case in reference.CASES:
    make(case)
