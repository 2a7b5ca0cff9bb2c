"""Supervised fine-tuning of InternVL, from a checkpoint or from scratch.

    python -m internvl.train                                       # tiny, from scratch, on handwritten digits
    python -m internvl.train --config=8b_sft --config.model=FOLDER --config.data=a.jsonl,b.parquet --workdir=runs/x

The workdir gets metrics.jsonl, TensorBoard events, checkpoints, and at the end model/, a checkpoint folder in the
layout of the source, from which `python -m internvl.chat --model=WORKDIR` answers. The same command goes on where an
interrupted run stopped.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from core import mesh
from core import params as params_lib
from core.conversations import mixture
from core.conversations.rows import Rows
from core.files.tensors import Files
from core.launch import job as launch
from core.report.intervals import wilson
from core.toy import digits
from core.training import steps
from core.training.run import Run, loop
from internvl import chat as answer
from internvl import checkpoint, model
from internvl.configs import CONFIGS as SIZES
from internvl.conversation import for_decoding
from internvl.data import packing
from internvl.data.dataset import Examples
from internvl.inputs.processor import Processor
from internvl.inputs.processor_config import ProcessorConfig
from internvl.plan.training import plan_step
from internvl.training import sft
from internvl.training.configs import CONFIGS, Config
from internvl.training.export import export

__all__ = ['CONFIGS', 'Config', 'main', 'plan_step']  # CONFIGS and plan_step are what `core.plan` reads

DIGITS = {'train': 4096, 'heldout': 1024}  # examples of the digits task


def processor_for(c: Config) -> Processor:
  """The input side: of the checkpoint or the tokenizer folder, or bytes for tiny."""
  if c.model not in SIZES:
    return Processor.load(c.model)
  if c.tokenizer:
    return Processor.load(c.tokenizer)
  if c.model not in ('tiny', 'tiny-flash'):
    raise ValueError(
      f'model={c.model} from scratch needs the tokenizer of a checkpoint folder: give config.tokenizer, '
      'or the folder itself as config.model to start from its weights'
    )
  m = SIZES[c.model]
  return Processor.over_bytes(
    ProcessorConfig(
      image_size=m.vision.image_size,
      tokens_per_tile=m.tokens_per_tile,
      max_tiles=4,
      system='',
      max_length=m.language.max_length,
      video_frames=4,
    )
  )


def start(c: Config, processor: Processor, place) -> tuple[model.Config, model.Params]:
  """The model and its first weights, on the mesh: float32, or `c.dtype` where only adapters are trained."""
  dtype = c.dtype if c.lora.rank else 'float32'
  if c.model not in SIZES:
    return checkpoint.load(c.model, mesh=place, dtype=dtype)
  m = dataclasses.replace(SIZES[c.model], image_token=processor.image_id)
  if len(processor.tokenizer) > m.language.vocab:
    raise ValueError(f'the tokenizer has {len(processor.tokenizer)} tokens, the model rows for {m.language.vocab}')
  places = mesh.shardings(model.spec(m), place)
  make = jax.jit(lambda key: model.init(key, m, jnp.dtype(dtype)), out_shardings=places)
  return m, make(jax.random.key(c.seed))


def layout_for(c: Config) -> str:
  """The layout to export in: the source's, if it can be written."""
  if c.model in SIZES:
    return checkpoint.layout_for(SIZES[c.model])
  return 'A' if checkpoint.layout_of(Files(c.model).tensors) == 'A' else 'B'


def files(c: Config, workdir: pathlib.Path) -> tuple[Sequence[str], Sequence[str]]:
  """Paths of the training and held-out data; the digits are made once where none are given."""
  if c.data:
    return c.data, c.heldout
  folder = workdir / 'digits'
  paths = {split: str(folder / f'{split}.jsonl') for split in DIGITS}
  if jax.process_index() == 0:
    for split, n in DIGITS.items():
      if not os.path.exists(paths[split]):
        digits.export(folder, split, c.seed, n)
  mesh.barrier('digits')
  return (paths['train'],), c.heldout or (paths['heldout'],)


def shares(c: Config, parts: Sequence[mixture.Part], examples: Sequence[Examples]) -> Sequence[float]:
  """How much each file has of the mixture: as asked, else as a meta.json says by size and repetition, else equal."""
  if any(map(mixture.is_mixture, c.data)):
    return [len(rows) * part.passes() for part, rows in zip(parts, examples)]
  return c.weights or [1.0] * len(parts)


def evaluate(folder: pathlib.Path, rows: Rows, n: int, *, dtype: str, answer_tokens: int, at_once: int = 32) -> tuple:
  """(right, asked): greedy answers of an exported model that equal the last turn of the first `n` rows."""
  processor = Processor.load(folder)
  place = mesh.make(devices=jax.local_devices())
  config, params = checkpoint.load(folder, mesh=place, dtype=dtype)
  params, right = for_decoding(params), 0
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
      right += sum(s == talk[-1]['content'].strip() for s, talk in zip(said, talks))
  return right, n


def main(c: Config, workdir: pathlib.Path) -> None:
  """Trains, exports and evaluates."""
  place = mesh.make(**dataclasses.asdict(c.mesh))
  processor, layout = processor_for(c), layout_for(c)
  paths, heldout = files(c, workdir)
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
    m, params = start(c, processor, place)
    trained, frozen = sft.adapt(c, m, params)
    del params
    state = steps.init_state(trained, sft.optimizer(c, m))
    step = sft.make_step(c, m, places=jax.tree.map(lambda x: x.sharding, state))
    prepare = jax.jit(lambda rows: (packing.batch(rows), packing.counts(rows)))
    data = packing.batches(examples, c, shares=shares(c, parts, examples))

    lessons = packing.Lessons()

    def advance(state, i):
      rows = next(data)
      batch, counts = prepare(mesh.to_global(rows, place))
      state, metrics = step(state, frozen, batch, jax.random.fold_in(key, i))
      metrics |= counts
      lessons.launched(metrics)
      return state, metrics

    state = loop(run, state, advance, c.steps, host={'data': data})
    lessons.finish()
    final = params_lib.cast(params_lib.fold(steps.merge(state.params, frozen)), c.dtype)
    export(run.workdir / 'model', m, final, processor, layout=layout)
  if jax.process_index() == 0:
    report(c, workdir, tests)


def report(c: Config, workdir: pathlib.Path, tests: Sequence[Rows]) -> None:
  """Prints the share of held-out rows that the exported model answers exactly."""
  for rows in tests:
    right, n = evaluate(workdir / 'model', rows, c.heldout_rows, dtype=c.dtype, answer_tokens=c.answer_tokens)
    low, high = wilson(right, n)
    print(f'{rows.records}: {right} of {n} answers exact: {right / n:.3f} (95% interval {low:.3f} to {high:.3f})')
  print(f'python -m internvl.chat --model={workdir} --image=…')


if __name__ == '__main__':
  launch.run(main, CONFIGS, default='tiny')
