"""Training rows: a prompt, the frames of its speech, END and EOS; and batches of rows, padded to one length.

T time   P frames of voice prompts   F frames of speech   C acoustic latent   S semantic width
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vibevoice.config import Config
from vibevoice.inputs.prompt import Prompt
from vibevoice.training import losses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
  """What a row is made of. Latents are scaled (`vibevoice.scaling.to_model`).

  voices: float32 [P, C], of the prompt's slots in order. latents: float32 [F, C] and semantic: float32 [F, S], of the
  speech. voices_semantic: float32 [P, S]; None for zeros, which no loss reads by default.
  """

  prompt: Prompt
  voices: np.ndarray
  latents: np.ndarray
  semantic: np.ndarray
  voices_semantic: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Row:
  """tokens: int32 [T]; latents, semantic: float32 [P + F, …]; target: bool [P + F], the frames to learn."""

  tokens: np.ndarray
  latents: np.ndarray
  semantic: np.ndarray
  target: np.ndarray


def row(config: Config, example: Example, *, bare: bool = False) -> Row:
  """The row of an example.

  bare: START alone precedes the speech. That is all the negative branch of guidance ever sees, so a model trained from
  scratch needs some such rows. Raises ValueError when latents do not fill the slots, or speech has no frame.
  """
  _check(config, example)
  speech = len(example.latents)
  ending = [config.slot] * speech + [config.end, config.eos]
  if bare:
    tokens = np.asarray([config.start, *ending], np.int32)
    return Row(tokens, example.latents, example.semantic, np.ones(speech, bool))
  voices = len(example.voices)
  voices_semantic = example.voices_semantic
  if voices_semantic is None:
    voices_semantic = np.zeros((voices, config.semantic.latent), np.float32)
  return Row(
    tokens=np.concatenate([example.prompt.tokens, np.asarray(ending, np.int32)]),
    latents=np.concatenate([example.voices, example.latents]),
    semantic=np.concatenate([voices_semantic, example.semantic]),
    target=np.arange(voices + speech) >= voices,
  )


def _check(config: Config, example: Example) -> None:
  slots = int(example.prompt.slots.sum())
  if len(example.voices) != slots:
    raise ValueError(f'{len(example.voices)} latents of voices for {slots} slots of the prompt; expected as many')
  if len(example.latents) != len(example.semantic) or not len(example.latents):
    raise ValueError(
      f'speech of {len(example.latents)} latents and {len(example.semantic)} semantic vectors; '
      'expected as many of both, one at least'
    )
  if example.latents.shape[1] != config.acoustic.latent:
    raise ValueError(f'latents of width {example.latents.shape[1]}; expected {config.acoustic.latent}')


def batch(config: Config, rows: Sequence[Row], *, length: int, frames: int, slots: bool = False) -> losses.Batch:
  """A training batch of rows, padded on the right to `length` tokens and `frames` frames.

  slots: as in `losses.weigh`. Raises ValueError, saying by how much, for a row that is longer.
  """
  for i, r in enumerate(rows):
    check_fits(f'row {i}', r, length=length, frames=frames)
  positions = [np.arange(len(r.tokens), dtype=np.int32) for r in rows]
  made = losses.Batch(
    tokens=_padded([r.tokens for r in rows], length, fill=config.eos),
    positions=_padded(positions, length, fill=-1),
    latents=_padded([r.latents for r in rows], frames),
    semantic=_padded([r.semantic for r in rows], frames),
    target=_padded([r.target for r in rows], frames),
  )
  return losses.weigh(config, made, slots=slots)


def check_fits(where: str, row: Row, *, length: int, frames: int) -> None:
  """Raises ValueError, saying by how much, for a row that is longer than a batch."""
  for what, has, limit in (('tokens', len(row.tokens), length), ('frames', len(row.latents), frames)):
    if has > limit:
      raise ValueError(f'{where}: {has} {what}, {has - limit} more than the {limit} of a batch')


def _padded(arrays: Sequence[np.ndarray], length: int, fill=0) -> np.ndarray:
  """[B, length, …] of arrays [n, …], filled on the right."""
  first = arrays[0]
  out = np.full((len(arrays), length, *first.shape[1:]), fill, first.dtype)
  for i, array in enumerate(arrays):
    out[i, : len(array)] = array
  return out
