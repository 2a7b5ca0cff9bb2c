"""Trains a small Whisper from scratch on digits spoken by espeak-ng (extra `espeak`), and measures it on other voices.

    python -m interp.train --workdir=runs/whisper

The workdir gets metrics.jsonl, checkpoints, and at the end model/, which `interp.transcribe`, `interp.report` and
`interp.loops` read, and heldout.json with the word error rate. The same command resumes a run.
"""

import dataclasses
import json
import pathlib

import jax
import numpy as np

from core import mesh, padding
from core.launch import job as launch
from core.training import optim, steps
from core.training.run import Run, loop
from interp import whisper
from interp.loops.clips import word_errors
from interp.training import model, speech
from interp.training.configs import CONFIGS, Config
from interp.whisper import frontend
from interp.whisper.decoding.window import Recogniser
from interp.whisper.options import Options

LEARNED = r'(?!positions$).*'  # all but the encoder's sinusoids
AT_ONCE = 20  # held-out clips
OPTIONS = Options(timestamps=False, previous=False, temperatures=(0.0,))


def errors(r: Recogniser, clips: list[tuple[np.ndarray, str]]) -> tuple[int, int]:
  """(edits, words) of clips (samples, text), decoded greedily."""
  edits = 0
  length = 0
  for first in range(0, len(clips), AT_ONCE):
    some = clips[first : first + AT_ONCE]
    samples = np.stack([samples for samples, _ in some])
    heard = _texts(r, samples)
    for (_, text), said in zip(some, heard):
      count, words = word_errors(text, said)
      edits += count
      length += words
  return edits, length


def _texts(r: Recogniser, samples: np.ndarray) -> list[str]:
  """The texts of at most AT_ONCE clips [n, samples]; fewer are padded, so that there is one shape."""
  rows = padding.repeat_last(samples, AT_ONCE)
  mels = np.asarray(frontend.log_mels(rows, r.config.mels))
  prompt = r.processor.prompt(timestamps=False)
  keys = r.keys(mels)
  results = r(keys, [prompt] * AT_ONCE, [0] * AT_ONCE)
  return [result.text for result in results[: len(samples)]]


def measured(c: Config, r: Recogniser) -> tuple[int, int]:
  """`errors` of clips by voices that are not trained on."""
  others = speech.record(speech.HELD_OUT, takes=1, seed=c.seed + 1)
  rng = np.random.default_rng((c.seed, c.steps, 1))
  clips = [others.clip(rng, most=c.most, length=r.config.samples) for _ in range(c.held_out)]
  return errors(r, clips)


def main(c: Config, workdir: pathlib.Path) -> None:
  """Trains, exports and measures."""
  if jax.process_count() > 1:
    raise ValueError(f'{jax.process_count()} processes; expected one, which may hold several devices')
  processor = whisper.Processor.of(model.vocabulary(), {'is_multilingual': False})
  config = model.config(len(processor.tokenizer), width=c.width, depth=c.depth, mels=c.mels)
  voices = speech.record(speech.TRAINED, takes=c.takes, seed=c.seed)
  place = mesh.make(**dataclasses.asdict(c.mesh))

  def batch(i: int) -> model.Batch:
    rng = np.random.default_rng((c.seed, i))
    clips = [voices.clip(rng, most=c.most, length=config.samples) for _ in range(c.batch)]
    return model.batch(processor, clips)

  def loss(params, batch, key):
    del key  # nothing is drawn
    return model.loss(params, config, batch)

  with jax.set_mesh(place), Run(workdir, c, every=c.save_every, show=('loss', 'right')) as run:
    start = whisper.init(jax.random.key(c.seed), config)
    params, frozen = steps.partition(start, LEARNED)
    tx = optim.optimizer(c.optim, c.steps, whisper.spec(config))
    step = steps.make_step(loss, tx)

    def advance(state, i):
      rows = mesh.to_global(batch(i), place)
      return step(state, frozen, rows, jax.random.key(i))

    state = loop(run, steps.init_state(params, tx), advance, c.steps)
    trained = steps.merge(state.params, frozen)
    folder = run.workdir / 'model'
    whisper.save(folder, config, trained)
    processor.tokenizer.save_pretrained(folder)
    edits, words = measured(c, Recogniser(trained, config, processor, OPTIONS))
    rate = edits / words
    found = {'word_error_rate': rate, 'edits': edits, 'words': words, 'clips': c.held_out}
    (run.workdir / 'heldout.json').write_text(json.dumps(found))
  print(f'model in {folder}; {edits} edits in {words} words by voices that it was not trained on: {rate:.1%}')


if __name__ == '__main__':
  launch.run(main, CONFIGS, default='digits')
