"""Offline preference training (MPO) of a checkpoint, of text or of text and images, on pairs from files.

  python -m rl.mpo --workdir=runs/mpo --config.model=FOLDER --config.data=MMPR-v1.2/meta.json

Data are a meta.json as MMPR has, or files of its records. The workdir ends with metrics.jsonl, TensorBoard events and
model/, a checkpoint folder in the format of the first one: `python -m rl.train --config.model=runs/mpo/model` continues
from it by reward. The same command continues a run that was stopped.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Literal

import jax
from absl import logging

from core import mesh, params
from core.conversations import mixture
from core.conversations.mixture import Part
from core.launch import job as launch
from core.launch.fields import field
from core.mesh import Shape
from rl import policy as policies
from rl.policy import Policy, Reading
from rl.preference import Examples, MpoPhase, Records, mpo


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


def files(config: Config) -> list[tuple[Part, Records]]:
  """The files of pairs, every record of them checked.

  Raises FileNotFoundError and ValueError for a file that cannot be used, naming the line.
  """
  found = []
  names = set()
  for part in mixture.parts(config.data):
    if part.name in names:
      raise ValueError(f'data={config.data}: {part.name!r} is named twice')
    names.add(part.name)
    records = part.open(Records, seed=config.seed)
    records.check()
    logging.info('%s: %d pairs', part.name, len(records))
    found.append((part, records))
  return found


def pairs(config: Config, policy: Policy, opened: Sequence[tuple[Part, Records]]) -> dict[str, tuple[Examples, float]]:
  """The pairs of each file as the policy reads them, and how often an epoch goes through them."""
  found = {}
  for part, records in opened:
    reading = Reading(thinking=config.thinking, max_tiles=part.max_tiles)
    examples = Examples(records, policy, reading=reading, augment=part.augment, seed=config.seed)
    found[part.name] = examples, part.passes()
  return found


def main(config: Config, workdir: pathlib.Path) -> None:
  """Trains and exports."""
  for name in ('model', 'data'):
    if not getattr(config, name):
      raise ValueError(f'{name}={getattr(config, name)!r}: has no default; give --config.{name}')
  place = mesh.make(**dataclasses.asdict(config.mesh))
  policies.check(config.model)
  opened = files(config)
  policy, weights = policies.load(config.model, place)
  parts = pairs(config, policy, opened)
  weights = mpo(config, policy, weights, parts, workdir, place=place, dtype=config.dtype, remat=config.remat)
  with jax.set_mesh(place):
    policy.save(workdir / 'model', params.cast(weights, config.dtype))
  if jax.process_index() == 0:
    print(f'checkpoint: {workdir / "model"}')


if __name__ == '__main__':
  launch.run(main, CONFIGS, default='release')
