"""Accuracy of models that read panels (`core.toy.panels`) with their tiles compressed in different ways.

E prompts   Q questions of a prompt, each of two tokens of the answer   n panels, which are tiles   B rows   T time
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

import jax
import numpy as np

from core import decoder, padding
from core.toy import panels
from internvl import model
from internvl.files import checkpoint
from internvl.flash import router
from internvl.inputs.processor import Inputs, Processor
from internvl.losses import Batch, vico

AT_ONCE = 64  # prompts in a forward pass


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Held-out prompts with their answers.

  inputs: one conversation each. dense: bool [E, n], the panels that need a fine look. question: int32 [E, T], which
  question each token answers, from 0; -1 elsewhere.
  """

  inputs: list[Inputs]
  dense: np.ndarray
  question: np.ndarray


@dataclasses.dataclass(frozen=True)
class Answers:
  """What was measured of one pair of models.

  right: bool [E, Q] of each way to feed the tiles. scores: float32 [E, n] of the router. compressed: bool [E, n], the
  tiles that it compresses. dense: as of `Prompts`.
  """

  right: dict[str, np.ndarray]
  scores: np.ndarray
  compressed: np.ndarray
  dense: np.ndarray


def prompts(processor: Processor, count: int, seed: int) -> Prompts:
  """Held-out examples as conversations that end with the right answer."""
  examples = [panels.example('heldout', seed, i) for i in range(count)]
  inputs = [_conversation(processor, example) for example in examples]
  dense = np.array([[panel.kind == panels.DENSE for panel in example.panels] for example in examples])
  numbers = [_questions(x.mask) for x in inputs]
  question = padding.batch(numbers, dtype=np.int32, fill=-1)
  return Prompts(inputs, dense, question)


def _questions(mask: np.ndarray) -> np.ndarray:
  """int [T]: the question that each token of a response answers, two tokens each; the last one has the end as well."""
  number = (np.cumsum(mask) - 1) // 2
  last = panels.PANELS * panels.ASKED - 1
  return np.where(mask, np.minimum(number, last), -1)


def _conversation(processor: Processor, example: panels.Example) -> Inputs:
  talk = [
    {'role': 'user', 'content': f'<image>\n{example.question}'},
    {'role': 'assistant', 'content': example.answer},
  ]
  return processor(talk, [example.image])


def measure(base: str | os.PathLike, flash: str | os.PathLike, *, count: int, seed: int) -> Answers:
  """The models in two folders, before ViCO and after it, on `count` prompts drawn by `seed`.

  A question is right when each token of its answer is the most likely one after the right tokens before it: what
  greedy decoding would say. 'random' compresses as many tiles as the router, drawn at random.
  """
  processor = Processor.load(flash)
  asked = prompts(processor, count, seed)
  base_config, base_params = checkpoint.load(base, dtype='float32')
  config, params = checkpoint.load(flash, dtype='float32')
  scores = np.concatenate(
    [_scores(params, config, np.stack([x.pixels for x in part])) for part in _parts(asked.inputs)]
  )
  compressed = router.decide(scores, relative=None, absolute=config.flash.absolute)
  shuffled = np.random.default_rng(seed).permutation(compressed.ravel()).reshape(compressed.shape)
  none = np.zeros_like(compressed)
  ways = {'full': none, 'routed': compressed, 'random': shuffled, 'compressed': ~none}
  right = {'base': _right(base_params, base_config, asked, none)}
  right |= {name: _right(params, config, asked, few) for name, few in ways.items()}
  return Answers(right=right, scores=scores, compressed=compressed, dense=asked.dense)


def _parts(items: Any) -> list:
  return [items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE)]


@functools.partial(jax.jit, static_argnames='config')
def _scores(params: model.Params, config: model.Config, pixels: jax.Array) -> jax.Array:
  patches, _ = model.patches(params, config, pixels)
  return router.scores(params.router, patches)


def _right(params: model.Params, config: model.Config, asked: Prompts, compressed: np.ndarray) -> np.ndarray:
  """bool [E, Q]: the questions whose answer is right in every token."""
  likeliest = np.concatenate(
    [
      _likeliest(params, config, _batch(config, inputs, few, asked.question.shape[1]))
      for inputs, few in zip(_parts(asked.inputs), _parts(compressed))
    ]
  )
  tokens = padding.batch([x.tokens for x in asked.inputs], dtype=np.int32, length=asked.question.shape[1])
  hits = likeliest[:, :-1] == tokens[:, 1:]
  question = asked.question[:, 1:]
  right = []
  for number in range(question.max() + 1):
    of_others = question != number
    right.append((hits | of_others).all(1))
  return np.stack(right, 1)


def _batch(config: model.Config, inputs: list[Inputs], few: np.ndarray, length: int) -> Batch:
  """Conversations laid out in full; `tile_tokens` says which tiles are compressed."""
  positions = padding.positions([len(x.tokens) for x in inputs], length)
  return Batch(
    tokens=padding.batch([x.tokens for x in inputs], dtype=np.int32, length=length),
    positions=positions,
    weights=None,
    pixels=np.stack([x.pixels for x in inputs]),
    segments=(positions >= 0).astype(np.int32),
    tile_tokens=np.where(few, config.compact_tokens, config.tokens_per_tile).astype(np.int32),
  )


@functools.partial(jax.jit, static_argnames='config')
def _likeliest(params: model.Params, config: model.Config, batch: Batch) -> jax.Array:
  """int32 [B, T]: the most likely next token at each position."""
  tile_tokens = batch.tile_tokens if config.flash else None
  images, _ = model.encode(params, config, batch.pixels, tile_tokens=tile_tokens)
  hidden = vico.states(params, config, batch, images, batch.tile_tokens)
  return decoder.logits(params.language, config.language, hidden).argmax(-1)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
  """Area under the ROC curve of scores for the positives, ties counted half (Mann-Whitney)."""
  from scipy.stats import rankdata

  ranks = rankdata(scores.ravel())
  chosen = positive.ravel()
  count = int(chosen.sum())
  others = chosen.size - count
  if not count or not others:
    raise ValueError(f'auc: {count} positives among {chosen.size}; expected some of both kinds')
  return float((ranks[chosen].sum() - count * (count + 1) / 2) / (count * others))
