"""Training of a tokenizer of a TTS model: from a folder to a folder.

    python -m vibevoice.train_tokenizer --workdir=runs/acoustic
    python -m vibevoice.train_tokenizer --config=tiny-semantic --config.model=runs/acoustic/model --workdir=runs/words

Without a model and data, a small model with random weights learns from digits spoken by espeak-ng (extra `espeak`).
The workdir gets metrics.jsonl, checkpoints, and at the end model/, the whole TTS checkpoint with the new tokenizer.
After the acoustic tokenizer the scale and bias of latents are measured again. The same command resumes a run.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import audio, mesh
from core import params as params_lib
from core.launch import job as launch
from core.training import optim, steps
from core.training.run import Run, loop
from vibevoice import model, scaling, tokenizer
from vibevoice.config import SAMPLE_RATE
from vibevoice.config import Config as ModelConfig
from vibevoice.files import checkpoint
from vibevoice.files.export import export
from vibevoice.inputs import script
from vibevoice.inputs.processor import Processor
from vibevoice.toy import base, digits
from vibevoice.training import adversarial, discriminators, reconstruction, transcript
from vibevoice.training.recordings import Recording, dithered, listed, wrapped
from vibevoice.training.tokenizer_configs import CONFIGS, Config

MEASURED = 64  # recordings that scale and bias are measured on


class Clips:
  """Recordings in memory; which ones a step takes depends on the seed and the step alone."""

  def __init__(self, recordings: list[Recording], *, silence: float, batch: int, seed: int):
    self.samples = [wrapped(audio.load(r.audio, SAMPLE_RATE), silence) for r in recordings]
    self.said = [' '.join(line.text for line in script.parse(r.script)) for r in recordings]
    self.size = batch
    self.seed = seed

  def pieces(self, step: int, *, frames: int, hop: int) -> reconstruction.Batch:
    """Random pieces of `frames` frames of `hop` samples, of those that the recordings have; shorter ones are padded."""
    rng, chosen = self._chosen(step)
    length = frames * hop
    wav = np.zeros((self.size, length), np.float32)
    for row, index in enumerate(chosen):
      clip = self.samples[index]
      later = max(0, len(clip) - length)
      start = hop * rng.integers(later // hop + 1)
      piece = clip[start : start + length]
      wav[row, : len(piece)] = piece
    weight = np.full(self.size, 1 / self.size, np.float32)
    return reconstruction.Batch(dithered(wav, rng), weight)

  def transcribed(self, step: int, processor: Processor) -> transcript.Batch:
    """Whole recordings and what is said."""
    rng, chosen = self._chosen(step)
    said = [processor.encode(' ' + self.said[i]) for i in chosen]
    samples = [self.samples[i] for i in chosen]
    batch = transcript.batch(processor.config, samples, said)
    return batch.replace(wav=dithered(batch.wav, rng))

  def _chosen(self, step: int) -> tuple[np.random.Generator, np.ndarray]:
    rng = np.random.default_rng((self.seed, step))
    return rng, rng.integers(len(self.samples), size=self.size)


def start_from(c: Config, workdir: pathlib.Path) -> pathlib.Path:
  """The folder of the model; without one, a small untrained one is written."""
  if c.model:
    return pathlib.Path(c.model)
  base.write(workdir / 'base', seed=c.seed)
  return workdir / 'base'


def task(c: Config, config: ModelConfig, params: model.Params, clips: Clips, processor: Processor):
  """(weights to train, their Specs, loss of (weights, batch, key), batch of a step)."""
  if c.part == 'acoustic':
    hop = config.acoustic.hop
    return *_acoustic(c, config, params), lambda step: clips.pieces(step, frames=c.frames, hop=hop)
  spec = transcript.spec(config)
  start = params_lib.init(jax.random.key(c.seed), spec).replace(semantic=params.semantic)

  def loss(trained, batch, key):
    del key  # nothing is drawn
    return transcript.loss(trained, config, batch)

  return start, spec, loss, lambda step: clips.transcribed(step, processor)


def _acoustic(c: Config, config: ModelConfig, params: model.Params):
  """(weights to train, their Specs, loss) of the acoustic tokenizer, with discriminators if asked for."""
  weights = reconstruction.Weights(mel=c.mel_weight, wave=c.wave_weight, latent=c.latent_weight)
  a = c.adversarial
  if not a.weight:

    def alone(trained, batch, key):
      return reconstruction.loss(trained, config.acoustic, batch, key, weights=weights)

    return params.acoustic, tokenizer.spec(config.acoustic), alone
  judges = discriminators.Config(periods=a.periods, windows=a.windows, channels=a.channels)
  spec = adversarial.spec(config.acoustic, judges)
  drawn = params_lib.init(jax.random.key(c.seed), spec.discriminators)
  against = adversarial.Weights(adversarial=a.weight, features=a.features)

  def loss(trained, batch, key):
    return adversarial.loss(trained, config.acoustic, batch, key, weights=weights, against=against)

  return adversarial.Params(tokenizer=params.acoustic, discriminators=drawn), spec, loss


def measured(config: ModelConfig, acoustic: tokenizer.Params, clips: Clips, key: jax.Array) -> scaling.Params:
  """Scale and bias, one number each, of the latents of the first recordings, noise included."""
  chosen = clips.samples[:MEASURED]
  longest = max(map(len, chosen))
  wav = np.stack([np.pad(clip, (0, longest - len(clip))) for clip in chosen])
  means = tokenizer.encode(acoustic, config.acoustic, wav)
  counts = np.array([tokenizer.frames(config.acoustic, len(clip)) for clip in chosen])
  mask = np.arange(means.shape[1]) < counts[:, None]
  latents = tokenizer.sample(config.acoustic, means, key)
  return scaling.measure(latents, mask)


def trained_model(c: Config, config: ModelConfig, params: model.Params, state: Any, clips: Clips) -> model.Params:
  """The model with its new tokenizer."""
  if c.part == 'semantic':
    return params.replace(semantic=state.params.semantic)
  trained = state.params.tokenizer if c.adversarial.weight else state.params
  constants = measured(config, trained, clips, jax.random.key(c.seed))
  return params.replace(acoustic=trained, scaling=constants)


def main(c: Config, workdir: pathlib.Path) -> None:
  """Trains and exports."""
  if jax.process_count() > 1:
    raise ValueError(f'{jax.process_count()} processes; expected one, which may hold several devices')
  place = mesh.make(**dataclasses.asdict(c.mesh))
  key = jax.random.key(c.seed)
  with jax.set_mesh(place), Run(workdir, c, every=c.save_every, show=('loss', 'mel', 'right')) as run:
    folder = start_from(c, run.workdir)
    recordings = listed(digits.files(c.data, run.workdir, clips=c.clips, seed=c.seed))
    processor = Processor.load(folder)
    config, params = checkpoint.load(folder, mesh=place, dtype=jnp.float32)
    clips = Clips(recordings, silence=c.silence, batch=c.batch, seed=c.seed)
    start, spec, loss, batch = task(c, config, params, clips, processor)
    tx = optim.optimizer(c.optim, c.steps, spec)
    step = steps.make_step(loss, tx)

    def advance(state, i):
      placed = mesh.to_global(batch(i), place)
      return step(state, None, placed, jax.random.fold_in(key, i))

    copied = jax.tree.map(jnp.copy, start)  # the step donates it, and `params` is exported at the end
    state = loop(run, steps.init_state(copied, tx), advance, c.steps)
    trained = trained_model(c, config, params, state, clips)
    export(run.workdir / 'model', config, trained, processor)
  print(f'{workdir}/model holds the model with its trained {c.part} tokenizer')


if __name__ == '__main__':
  launch.run(main, CONFIGS, default='tiny')
