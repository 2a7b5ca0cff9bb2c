"""Offline preference training (MPO) of an InternVL checkpoint on pairs from files.

  python -m rl.mpo --workdir=runs/mpo --config.model=FOLDER --config.data=MMPR-v1.2/meta.json

Data are a meta.json as MMPR has, or files of its records. The workdir ends with metrics.jsonl, TensorBoard events and
model/, a checkpoint folder in the layout of the first one: `python -m internvl.chat --model=runs/mpo` answers from it,
`python -m rl.train --config.model=runs/mpo/model` goes on by reward. The same command goes on where an interrupted run
stopped.
"""

import dataclasses
import pathlib
from typing import Literal

import jax
from absl import logging

import internvl
from core import mesh, params
from core.conversations import mixture
from core.launch import job as launch
from core.launch.fields import field
from core.mesh import Shape
from internvl import Processor
from internvl.train import layout_for
from internvl.training.export import export
from rl.preference import Examples, Records
from rl.recipes.mpo import MpoPhase, mpo


@dataclasses.dataclass(frozen=True)
class Config(MpoPhase):
  """Mixed preference optimisation of a checkpoint."""

  model: str = field('', 'folder of a checkpoint')
  data: tuple[str, ...] = field((), 'a meta.json as MMPR has, or JSONL, Parquet or ArrayRecord files of its records')
  dtype: Literal['float32', 'bfloat16'] = field(
    'bfloat16', 'of arithmetic and the exported files; trained weights are float32'
  )
  remat: Literal['none', 'dots', 'full'] = field('full', 'what the backward pass recomputes')
  mesh: Shape = field(Shape(), 'axes of the devices')


CONFIGS = {'release': Config()}


def pairs(config: Config, processor: Processor) -> dict[str, tuple[Examples, float]]:
  """The pairs of each file and how often an epoch goes through them, every record looked at.

  Raises FileNotFoundError and ValueError for a file that cannot be used, with its place.
  """
  found = {}
  for part in mixture.parts(config.data):
    if part.name in found:
      raise ValueError(f'data={config.data}: {part.name!r} is named twice')
    records = part.open(Records, seed=config.seed)
    records.check()
    logging.info('%s: %d pairs', part.name, len(records))
    found[part.name] = (
      Examples(
        records,
        processor.with_max_tiles(part.max_tiles),
        thinking=config.thinking,
        augment=part.augment,
        seed=config.seed,
      ),
      part.passes(),
    )
  return found


def main(config: Config, workdir: pathlib.Path) -> None:
  """Trains and exports."""
  for name in ('model', 'data'):
    if not getattr(config, name):
      raise ValueError(f'{name}={getattr(config, name)!r}: has no default; give --config.{name}')
  place = mesh.make(**dataclasses.asdict(config.mesh))
  processor, layout = Processor.load(config.model), layout_for(config)
  parts = pairs(config, processor)
  model, weights = internvl.load(config.model, mesh=place, dtype='float32')
  weights = mpo(config, model, weights, parts, workdir, place=place, dtype=config.dtype, remat=config.remat)
  with jax.set_mesh(place):
    export(workdir / 'model', model, params.cast(weights, config.dtype), processor, layout=layout)
  if jax.process_index() == 0:
    print(f'python -m internvl.chat --model={workdir} --image=…')


if __name__ == '__main__':
  launch.run(main, CONFIGS, default='release')
