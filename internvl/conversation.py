"""Conversations with the model: messages and images in, text out, whole or in pieces.

B conversations   T prompt tokens   N tiles of all of them   S side of a tile   D language width
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from core.engine import generate as loop
from core.engine.sampling import Sampling
from core.files.tokenizers import Detokenizer
from core.padding import bucket
from internvl import model
from internvl.inputs.processor import Inputs, Processor, pad

STEP = 4  # tokens decoded between two looks at a streamed answer
TILES = 8  # encoded at a time: what the vision tower needs does not grow with the number of images


def for_decoding(params: model.Params) -> model.Params:
  """The parameters as generation is fastest with (`core.engine.generate.for_decoding`); do it once, after loading."""
  return params.replace(language=loop.for_decoding(params.language))


def tile_bucket(n: int) -> int:
  """0..4, then as `core.padding.bucket`: 6, 8, 12, 16, 24, …: numbers of tiles in one bucket share a program."""
  return n if n < 4 else bucket(n, 4)


@functools.partial(jax.jit, static_argnames='config')
def _embed(params: model.Params, config: model.Config, tokens: jax.Array, pixels: jax.Array) -> jax.Array:
  """Embeddings [B, T, D] of tokens [B, T] with the tiles [N, S, S, 3] of all rows, padded at the end, in place."""
  if not len(pixels):
    return model.embed(params, config, tokens)
  groups = pixels.reshape(-1, TILES, *pixels.shape[1:]) if len(pixels) % TILES == 0 else pixels[None]
  images = jax.lax.map(lambda tiles: model.encode(params, config, tiles)[0], groups)
  return model.embed(params, config, tokens, images.reshape(-1, *images.shape[2:]))


def generate(
  params: model.Params,
  config: model.Config,
  processor: Processor,
  prompts: Sequence[Inputs],
  *,
  max_new_tokens: int,
  seed: int | Sequence[int] = 0,
  **sampling: Any,
) -> loop.Generation:
  """The answers to ragged prompts, encoded and prefilled, ready to `advance`.

  Raises ValueError for a prompt that fills the model's context, and for sampling out of range.
  """
  if max_new_tokens < 1:
    raise ValueError(f'max_new_tokens={max_new_tokens}: expected 1 or more')
  lengths = np.asarray([len(p.tokens) for p in prompts])
  left = config.language.max_length - lengths
  if left.min() < 1:
    raise ValueError(
      f'the prompt of conversation {left.argmin()} has {lengths.max()} tokens and leaves no tokens for '
      f'an answer; the context of the model is {config.language.max_length}'
    )
  tiles = sum(len(p.pixels) for p in prompts)
  batch = pad(prompts, [bucket(int(lengths.max()))], [tile_bucket(tiles)], pad_id=processor.pad_id)
  x = _embed(params, config, batch.tokens, batch.pixels)
  seeds = np.full(len(prompts), seed) if np.ndim(seed) == 0 else seed
  return loop.prompted(
    params.language,
    config.language,
    x,
    batch.positions,
    max_new=np.minimum(left, max_new_tokens),
    sampling=Sampling.of(len(prompts), seed=seeds, **sampling),
    stops=sorted({processor.stop_id, processor.pad_id}),
  )


def pieces(generation: loop.Generation, processor: Processor) -> Iterator[str]:
  """Pieces of the answer of a generation's only row, as they come; joined they are the whole answer."""
  text, shown, read = '', '', 0
  detokenizer = Detokenizer(processor.tokenizer, skip_special_tokens=False)
  while True:
    tokens = generation.rows()[0]
    text += detokenizer.push(*processor.said(tokens[read:]))
    read = len(tokens)
    if generation.finished:
      text += detokenizer.flush()
    answer = processor.layout.answer(text)
    if len(answer) > len(shown):  # what is shown never changes: an answer only grows
      yield answer[len(shown) :]
      shown = answer
    if generation.finished:
      return
    generation.advance(read + STEP)


def chat(
  params: model.Params,
  config: model.Config,
  processor: Processor,
  messages: Sequence,
  *,
  images: Sequence | None = None,
  videos: Sequence | None = None,
  max_new_tokens: int,
  temperature: float = 0.0,
  top_k: int = 0,
  top_p: float = 1.0,
  min_p: float = 0.0,
  seed: int | Sequence[int] = 0,
  thinking: bool = False,
  stream: bool = False,
) -> str | list[str] | Iterator[str]:
  """The assistant's answer to a conversation, or to each of several.

  Args:
    params: as loaded; decoding is faster when they went through `for_decoding` once. messages: one conversation (see
    `core.conversations.messages`) that ends with the user, or a list of conversations, which
      are answered together; each answer is what the conversation gets alone.
    images, videos: the media of the conversation in the order of their marks, or a single one; for several
      conversations, one list (or None) each.
    max_new_tokens: the answer ends there, at the layout's stop token, or where the context of the model is full.
    temperature, top_k, top_p, min_p: 0 temperature is greedy, and the others then without effect.
    seed: of sampling; several conversations may have one each, and share a single one otherwise.
    thinking: reason first, by the layout's system text for it (use temperature 0.6).
    stream: return an iterator of pieces of text, which joined are the answer; for one conversation.

  Raises:
    ValueError: malformed messages or media (as `Processor`), a conversation that ends with the assistant, a prompt
      that does not fit the context, sampling parameters out of range.
    FileNotFoundError: a missing image or video.
  """
  messages = [messages] if isinstance(messages, Mapping) else messages
  many = bool(messages) and not isinstance(messages[0], Mapping)
  if many and stream:
    raise ValueError('stream=True takes one conversation, not a list of them')
  talks = list(messages) if many else [messages]
  media = [_media(name, given, many, len(talks)) for name, given in (('images', images), ('videos', videos))]
  prompts = [_prompt(processor, *talk, thinking) for talk in zip(talks, *media)]
  generation = generate(
    params,
    config,
    processor,
    prompts,
    max_new_tokens=max_new_tokens,
    temperature=temperature,
    top_k=top_k,
    top_p=top_p,
    min_p=min_p,
    seed=seed,
  )
  if stream:
    return pieces(generation, processor)
  generation.advance()
  answers = [processor.answer(row) for row in generation.rows()]
  return answers if many else answers[0]


def _media(name: str, given: Sequence | None, many: bool, talks: int) -> list:
  """The media of each conversation."""
  if not many or given is None:
    return [given] * talks
  if not isinstance(given, (list, tuple)):
    raise ValueError(f'{name} is a {type(given).__name__}; expected a list for each of {talks} conversations')
  if len(given) != talks:
    raise ValueError(f'{name} has {len(given)} lists for {talks} conversations')
  return list(given)


def _prompt(processor: Processor, messages, images, videos, thinking: bool) -> Inputs:
  inputs = processor(messages, images, videos, thinking=thinking)
  if messages[-1]['role'] == 'assistant':
    raise ValueError('the conversation ends with the assistant; a user turn was expected')
  return inputs
