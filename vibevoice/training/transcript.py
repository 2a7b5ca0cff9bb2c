"""What the semantic tokenizer learns: to hear words. A small decoder reads its features and predicts the transcript;
after training it is thrown away (arXiv 2508.19205, section 2.1, which gives no sizes).

A row is SLOT for each frame, START, the transcript's tokens, EOS. Slots take the features through a connector.

B batch   N samples   F frames   T tokens
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import decoder
from core.training.steps import Loss
from vibevoice import connector, model, tokenizer
from vibevoice.config import Config

DEPTH = 2  # layers of the proxy


@struct.dataclass
class Params:
  """The tokenizer, and the proxy that reads it."""

  semantic: tokenizer.Params
  connector: connector.Params
  language: decoder.Params


@struct.dataclass
class Batch:
  """wav: float32 [B, N], whole hops. tokens, positions: int32 [B, T], -1 at padding. weights: float32 [B, T], of
  predicting the token at t, which sum to 1 over a whole batch."""

  wav: Any
  tokens: Any
  positions: Any
  weights: Any


def proxy_config(config: Config) -> decoder.Config:
  """The proxy's decoder: as wide as the model's language model, and shallow."""
  return dataclasses.replace(config.language, depth=min(DEPTH, config.language.depth))


def spec(config: Config) -> Params:
  """Every weight, once."""
  language = proxy_config(config)
  return Params(
    semantic=tokenizer.spec(config.semantic, decodes=False),
    connector=connector.spec(config.semantic.latent, language.width),
    language=decoder.spec(language),
  )


def batch(config: Config, clips: Sequence[np.ndarray], transcripts: Sequence[Sequence[int]]) -> Batch:
  """A batch of clips float32 [n] and the tokens of what is said, padded to one length each (numpy)."""
  counts = [tokenizer.frames(config.semantic, len(clip)) for clip in clips]
  longest = _bucket(max(counts)) * config.semantic.hop
  wav = np.zeros((len(clips), longest), np.float32)
  rows = []
  for count, said in zip(counts, transcripts, strict=True):
    frames = [config.slot] * count
    rows.append([*frames, config.start, *said, config.eos])
  length = _bucket(max(map(len, rows)))
  tokens = np.full((len(rows), length), config.eos, np.int32)
  positions = np.full((len(rows), length), -1, np.int32)
  labels = np.zeros((len(rows), length), np.float32)
  for i, (clip, row) in enumerate(zip(clips, rows)):
    wav[i, : len(clip)] = clip
    tokens[i, : len(row)] = row
    positions[i, : len(row)] = np.arange(len(row))
    labels[i, counts[i] + 1 : len(row)] = 1
  return Batch(wav, tokens, positions, labels / labels.sum())


def _bucket(count: int) -> int:
  """The next multiple of 16, so that few programs are compiled."""
  return -(-count // 16) * 16


def loss(params: Params, config: Config, batch: Batch) -> Loss:
  """Cross-entropy of the transcript. Metrics: `right`, the share of tokens that are the likeliest."""
  language = proxy_config(config)
  features = tokenizer.encode(params.semantic, config.semantic, batch.wav)
  at_frames = connector.apply(params.connector, features)
  x = decoder.embed(params.language, batch.tokens)
  x = model.place_frames(x, batch.tokens == config.slot, at_frames)
  hidden = decoder.forward(params.language, language, x, positions=batch.positions).hidden
  logits = decoder.logits(params.language, language, hidden[:, :-1])
  wanted = batch.tokens[:, 1:]
  weights = batch.weights[:, 1:]
  logp = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(logp, wanted[..., None], 2)[..., 0]
  right = jnp.sum(weights * (logits.argmax(-1) == wanted))
  total = -jnp.sum(weights * chosen)
  weight = jnp.sum(weights)
  return Loss(total, weight, {'right': (right, weight)})
