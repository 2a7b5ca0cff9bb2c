"""Supervised fine-tuning of InternVL, from a checkpoint or from scratch, and ViCO, which makes it a Flash model.

    python -m internvl.train                                       # tiny, from scratch, on handwritten digits
    python -m internvl.train --config=8b_sft --config.model=FOLDER --config.data=a.jsonl,b.parquet --workdir=runs/x
    python -m internvl.train --config=vico_consistency --config.model=BASE --config.data=… --workdir=runs/one
    python -m internvl.train --config=vico_routing --config.model=runs/one/model --config.reference=BASE …

The workdir gets metrics.jsonl, TensorBoard events, checkpoints, and at the end model/, a checkpoint folder in the
layout of the source (Flash: the original one), from which `python -m internvl.chat --model=WORKDIR` answers. The same
command resumes an interrupted run.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax

from core import mesh
from core import params as params_lib
from core.conversations import mixture
from core.conversations.rows import Rows
from core.launch import job as launch
from core.report.intervals import wilson
from core.training import steps
from core.training.run import Run, loop
from internvl import chat as answer
from internvl.conversation import for_decoding
from internvl.data import packing
from internvl.data.dataset import Examples
from internvl.files import checkpoint
from internvl.inputs.processor import Processor
from internvl.plan.training import plan_step
from internvl.training import sft
from internvl.training import start as starting
from internvl.training.configs import CONFIGS, Config
from internvl.training.export import export

__all__ = ['CONFIGS', 'Config', 'main', 'plan_step']  # CONFIGS and plan_step are what `core.plan` reads

OFTEN = 8  # a question with fewer answers is not listed by itself


class Answered(NamedTuple):
  """A question of held-out data, and whether it was answered exactly."""

  question: str
  right: bool


def shares(c: Config, parts: Sequence[mixture.Part], examples: Sequence[Examples]) -> Sequence[float]:
  """How much each file has of the mixture: as asked, else as a meta.json says by size and repetition, else equal."""
  if any(map(mixture.is_mixture, c.data)):
    return [len(rows) * part.passes() for part, rows in zip(parts, examples)]
  return c.weights or [1.0] * len(parts)


def evaluate(
  folder: pathlib.Path, rows: Rows, n: int, *, dtype: str, answer_tokens: int, at_once: int = 32
) -> list[Answered]:
  """The first `n` rows, each with whether the greedy answer of an exported model equals its last turn."""
  processor = Processor.load(folder)
  place = mesh.make(devices=jax.local_devices())
  config, params = checkpoint.load(folder, mesh=place, dtype=dtype)
  params = for_decoding(params)
  answered = []
  n = min(n, len(rows))
  with jax.set_mesh(place):
    for start in range(0, n, at_once):
      talks, images, videos = zip(*(rows[i] for i in range(start, min(start + at_once, n))))
      said = answer(
        params,
        config,
        processor,
        [talk[:-1] for talk in talks],
        images=images,
        videos=videos,
        max_new_tokens=answer_tokens,
      )
      for text, talk in zip(said, talks):
        question = talk[-2]['content'].replace('<image>', '').strip()
        answered.append(Answered(question, text == talk[-1]['content'].strip()))
  return answered


def shares_right(answered: Sequence[Answered]) -> list[str]:
  """The share of right answers with its 95 % interval: of all, then of each question that is asked often."""
  questions: dict[str, list[bool]] = {}
  for one in answered:
    questions.setdefault(one.question, []).append(one.right)
  often = {question: right for question, right in questions.items() if len(right) >= OFTEN}
  lines = [f'  {_share([one.right for one in answered])}']
  if len(questions) > 1:
    lines += [f'  {question}  {_share(right)}' for question, right in sorted(often.items())]
  return lines


def _share(right: Sequence[bool]) -> str:
  low, high = wilson(sum(right), len(right))
  share = sum(right) / len(right)
  return f'{sum(right)} of {len(right)} answers exact: {share:.3f} (95% interval {low:.3f} to {high:.3f})'


def main(c: Config, workdir: pathlib.Path) -> None:
  """Trains, exports and evaluates."""
  starting.check(c)
  place = mesh.make(**dataclasses.asdict(c.mesh))
  processor = starting.processor_for(c)
  paths, heldout = starting.files(c, workdir)
  parts = mixture.parts(paths)
  examples = [
    Examples(
      part.open(seed=c.seed),
      processor,
      seed=c.seed,
      augment=c.augment or part.augment,
      max_tiles=part.max_tiles,
      bad_rows=c.bad_rows,
    )
    for part in parts
  ]
  tests = [Rows(path) for path in heldout] if c.heldout_rows else []
  key = jax.random.key(c.seed)
  with jax.set_mesh(place), Run(workdir, c, every=c.save_every) as run:
    m, params = starting.start(c, processor, place)
    reference = starting.reference(c, m, params, place)
    trained, frozen = sft.adapt(c, m, params)
    del params
    state = steps.init_state(trained, sft.optimizer(c, m), sft.carry(c))
    step = sft.make_step(c, m, places=jax.tree.map(lambda x: x.sharding, state))
    prepare = jax.jit(lambda rows: (packing.batch(rows), packing.counts(rows)))
    data = packing.batches(examples, c, shares=shares(c, parts, examples))

    lessons = packing.Lessons()

    def advance(state, i):
      rows = next(data)
      batch, counts = prepare(mesh.to_global(rows, place))
      state, metrics = step(state, frozen, batch, jax.random.fold_in(key, i), reference)
      metrics |= counts
      lessons.launched(metrics)
      return state, metrics

    state = loop(run, state, advance, c.steps, host={'data': data})
    lessons.finish()
    final = params_lib.cast(params_lib.fold(steps.merge(state.params, frozen)), c.dtype)
    layout = starting.layout_for(c, m)
    export(run.workdir / 'model', starting.trained_config(c, m), final, processor, layout=layout)
  if jax.process_index() == 0:
    report(c, workdir, tests)


def report(c: Config, workdir: pathlib.Path, tests: Sequence[Rows]) -> None:
  """Prints the share of held-out rows that the exported model answers exactly, also by question."""
  for rows in tests:
    answered = evaluate(workdir / 'model', rows, c.heldout_rows, dtype=c.dtype, answer_tokens=c.answer_tokens)
    print(f'{rows.records}:', *shares_right(answered), sep='\n')
  print(f'python -m internvl.chat --model={workdir} --image=…')


if __name__ == '__main__':
  launch.run(main, CONFIGS, default='tiny')
