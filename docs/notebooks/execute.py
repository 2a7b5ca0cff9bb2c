"""Executes the notebooks of this folder; fails on the first error in a cell.

    python docs/notebooks/execute.py            # all; outputs are discarded
    python docs/notebooks/execute.py --write    # keep the outputs in the .ipynb files

The .py file of a pair is the source. An .ipynb whose cells differ from it is an error, unless it is being written.
"""

import os
import pathlib
import sys
import time

import jupytext
import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
CELL_SECONDS = 1200  # ends a cell that hangs


def sources(notebook) -> list[tuple[str, str]]:
  """(kind, text) of each cell."""
  return [(cell.cell_type, cell.source) for cell in notebook.cells]


def pairs() -> list[pathlib.Path]:
  """The .py file of each notebook."""
  return [path for path in sorted(FOLDER.glob('*.py')) if path != pathlib.Path(__file__).resolve()]


def execute(path: pathlib.Path):
  """The notebook of a .py file with its outputs. Raises nbclient.exceptions.CellExecutionError naming the cell."""
  # Compiled programs are kept where the tests keep theirs.
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.jax_cache'))
  notebook = jupytext.read(path)
  client = nbclient.NotebookClient(
    notebook, timeout=CELL_SECONDS, kernel_name='python3', resources={'metadata': {'path': str(ROOT)}}
  )
  client.execute()
  for cell in notebook.cells:
    cell.metadata.pop('execution', None)  # the seconds of each cell change with every run
    # Warnings name folders of the machine they came from.
    if cell.cell_type == 'code':
      cell.outputs = [output for output in cell.outputs if output.get('name') != 'stderr']
  return notebook


def main(arguments: list[str]) -> None:
  """Executes every pair; exits with a message where a stored notebook is missing or has other cells."""
  write = arguments == ['--write']
  if arguments and not write:
    sys.exit('usage: python docs/notebooks/execute.py [--write]')
  for path in pairs():
    stored = path.with_suffix('.ipynb')
    if not write:
      if not stored.exists():
        sys.exit(f'{stored.name} is missing: run execute.py --write')
      if sources(nbformat.read(stored, as_version=4)) != sources(jupytext.read(path)):
        sys.exit(f'{stored.name} has other cells than {path.name}: run execute.py --write')
    start = time.monotonic()
    notebook = execute(path)
    if write:
      nbformat.write(notebook, stored)
    print(f'{path.name}: {len(notebook.cells)} cells in {time.monotonic() - start:.0f} s', flush=True)


if __name__ == '__main__':
  main(sys.argv[1:])
