"""Fine-tuning of a TTS model on recordings and their scripts.

    python -m vibevoice.train --config.model=FOLDER --config.data=talks.jsonl --workdir=runs/voice
    python -m vibevoice.train --config=tiny --config.model=runs/words/model    # digits, after vibevoice.train_tokenizer

A line of the data is {"script": "Speaker 1: Hello.", "audio": "hello.wav", "voices": ["prompt.wav"]}; without voices a
piece of the recording is the voice prompt, where one speaker speaks. The workdir gets metrics.jsonl, TensorBoard
events, checkpoints, and at the end model/, a checkpoint folder as published. The same command resumes an interrupted
run. Clone a voice only with its owner's consent, and say where speech is generated: the model card asks for both.
"""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import jax.numpy as jnp

from core import mesh
from core import params as params_lib
from core.launch import job as launch
from core.training import steps
from core.training.run import Run, loop
from vibevoice.files import checkpoint
from vibevoice.files.export import export
from vibevoice.inputs.processor import Processor
from vibevoice.toy import digits
from vibevoice.training.configs import CONFIGS, Config
from vibevoice.training.fine_tuning import adapt, final, make_step, optimizer
from vibevoice.training.recordings import Rows, listed


def check(c: Config) -> None:
  """Raises ValueError for a run that cannot start."""
  if not c.model or not (c.data or c.clips):
    raise ValueError(
      f'model={c.model!r}, data={c.data}: expected the folder of a TTS checkpoint and JSONL files; '
      'python -m vibevoice.train_tokenizer makes a small checkpoint'
    )
  if jax.process_count() > 1:
    raise ValueError(f'{jax.process_count()} processes; expected one, which may hold several devices')


def main(c: Config, workdir: pathlib.Path) -> None:
  """Trains and exports."""
  check(c)
  recordings = listed(digits.files(c.data, workdir, clips=c.clips, seed=c.seed))
  processor = Processor.load(c.model)
  place = mesh.make(**dataclasses.asdict(c.mesh))
  key = jax.random.key(c.seed)
  with jax.set_mesh(place), Run(workdir, c, every=c.save_every) as run:
    config, params = checkpoint.load(c.model, mesh=place, dtype=c.dtype)
    rows = Rows(c, recordings, processor, params)
    trained, frozen = adapt(c, config, params)
    step = make_step(c, config)

    def advance(state, i):
      batch = mesh.to_global(rows.batch(i), place)
      state, metrics = step(state, frozen, batch, jax.random.fold_in(key, i))
      return state, metrics | {'tokens': jnp.sum(batch.positions >= 0)}

    state = loop(run, steps.init_state(trained, optimizer(c, config)), advance, c.steps)
    whole = params_lib.fold(steps.merge(final(c, state), frozen))
    export(run.workdir / 'model', config, params_lib.cast(whole, c.dtype), processor)
  print(f'{workdir}/model holds the trained model')


if __name__ == '__main__':
  launch.run(main, CONFIGS, default='finetune')
