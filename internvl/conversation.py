"""Conversations with the model: messages and images in, text out, whole or in pieces.

B conversations   T prompt tokens   N tiles of all of them   P patches   D language width
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from core import padding
from core.engine import generate as loop
from core.engine.sampling import Sampling
from core.files.tokenizers import Detokenizer
from internvl import model
from internvl.flash import routing
from internvl.flash.routing import Compression, Routing
from internvl.inputs.processor import Batch, Inputs, Processor, pad
from internvl.prefix_cache import PrefixCache

STEP = 4  # tokens decoded between two looks at a streamed answer


def for_decoding(params: model.Params) -> model.Params:
  """The parameters as generation is fastest with (`core.engine.generate.for_decoding`); do it once, after loading."""
  return params.replace(language=loop.for_decoding(params.language))


@functools.partial(jax.jit, static_argnames='config')
def _embed(
  params: model.Params,
  config: model.Config,
  tokens: jax.Array,
  features: jax.Array | None,
  tile_tokens: jax.Array | None,
) -> jax.Array:
  """Embeddings [B, T, D] of tokens [B, T] with the tiles of all rows in place.

  features: patches [N, P, vision width], padded at the end. tile_tokens: int32 [N]; None: no tile is compressed.
  """
  if features is None:
    return model.embed(params, config, tokens)
  if tile_tokens is None:
    images = model.project(params, config, features)
  else:
    images = model.project_mixed(params, config, features, tile_tokens)
  return model.embed(params, config, tokens, images, tile_tokens=tile_tokens)


def _check_space(config: model.Config, prompts: Sequence[Inputs]) -> np.ndarray:
  """Tokens that the context leaves for each answer, int [B]. Raises ValueError where it leaves none."""
  lengths = np.asarray([len(p.tokens) for p in prompts])
  left = config.language.max_length - lengths
  if left.min() < 1:
    raise ValueError(
      f'the prompt of conversation {left.argmin()} has {lengths.max()} tokens and leaves no tokens for '
      f'an answer; the context of the model is {config.language.max_length}'
    )
  return left


def _batch(processor: Processor, prompts: Sequence[Inputs]) -> Batch:
  """Prompts padded to buckets of tokens and tiles."""
  longest = max(len(p.tokens) for p in prompts)
  tiles = sum(len(p.pixels) for p in prompts)
  return pad(prompts, [padding.bucket(longest)], [routing.tile_bucket(tiles)], pad_id=processor.pad_id)


def generate(
  params: model.Params,
  config: model.Config,
  processor: Processor,
  prompts: Sequence[Inputs],
  *,
  max_new_tokens: int,
  seed: int | Sequence[int] = 0,
  compression: Compression | None = None,
  routed: Callable[[Sequence[Inputs], Sequence[Routing]], None] | None = None,
  prefix_cache: PrefixCache | None = None,
  **sampling: Any,
) -> loop.Generation:
  """The answers to ragged prompts, encoded and prefilled, ready to `advance`; options as of `chat`.

  Raises ValueError for a prompt that fills the model's context, and for sampling out of range.
  """
  if max_new_tokens < 1:
    raise ValueError(f'max_new_tokens={max_new_tokens}: expected 1 or more')
  seeds = np.full(len(prompts), seed) if np.ndim(seed) == 0 else seed
  rows = Sampling.of(len(prompts), seed=seeds, **sampling)
  mode = routing.resolve(config, compression)
  if mode == 'off':
    _check_space(config, prompts)  # before the tiles are encoded
  prompts, features, mixed = _routed(params, config, processor, prompts, mode, routed)
  limit = np.minimum(_check_space(config, prompts), max_new_tokens)
  rest = prompts
  past = None
  reused = 0
  if prefix_cache is not None:
    rest = [prefix_cache.begin(params, prompts[0], processor.image_id)]
    reused = prefix_cache.reused
  batch = _batch(processor, rest)
  reused_tiles = len(prompts[0].pixels) - len(rest[0].pixels)
  features = _features(params, config, batch, features, reused_tiles)
  x = _embed(params, config, batch.tokens, features, batch.tile_tokens if mixed else None)
  if reused:
    fresh = loop.slots_for(batch.tokens.shape[1], int(limit.max()))
    slots = padding.bucket(reused + fresh)
    past = prefix_cache.past(slots)
  generation = loop.prompted(
    params.language,
    config.language,
    x,
    np.where(batch.positions < 0, -1, batch.positions + reused),
    max_new=limit,
    sampling=rows,
    stops=processor.stop_ids,
    hook=_penalty(prompts, rows),
    past=past,
  )
  if prefix_cache is not None:
    prefix_cache.keep(generation)
  return generation


def _routed(
  params: model.Params,
  config: model.Config,
  processor: Processor,
  prompts: Sequence[Inputs],
  mode: Compression,
  routed: Callable | None,
) -> tuple[Sequence[Inputs], jax.Array | None, bool]:
  """(prompts as compressed, patch features of all tiles if routing needed them, whether a tile is compressed)."""
  features = None
  if routing.needs_scores(mode) and any(len(p.pixels) for p in prompts):
    features = routing.patches(params, config, _batch(processor, prompts).pixels)
  decisions = routing.route(params, config, prompts, mode, features=features)
  if routed:
    routed(prompts, decisions)
  if not any(r.saved for r in decisions):
    return prompts, features, False
  return [routing.shorten(p, r, processor.image_id) for p, r in zip(prompts, decisions)], features, True


def _features(
  params: model.Params, config: model.Config, batch: Batch, features: jax.Array | None, cached: int
) -> jax.Array | None:
  """Patch features of a batch's tiles: those that routing computed but the first `cached`, or computed now."""
  slots = len(batch.pixels)
  if not slots:
    return None
  if features is None:
    return routing.patches(params, config, batch.pixels)
  if cached:
    return padding.pad(features[cached : cached + slots], slots, axis=0)
  return features


def _penalty(prompts: Sequence[Inputs], rows: Sampling) -> loop.RepetitionPenalty | None:
  """The hook that penalises what was said before, prompts included; None where no row asks for it."""
  if (np.asarray(rows.repetition_penalty) == 1).all():
    return None
  longest = padding.bucket(max(len(p.tokens) for p in prompts))
  tokens = padding.batch([p.tokens for p in prompts], length=longest, fill=-1, dtype=np.int32)
  return loop.RepetitionPenalty(tokens, rows.repetition_penalty)


def pieces(generation: loop.Generation, processor: Processor) -> Iterator[str]:
  """Pieces of the answer of a generation's only row, as they come; joined they are the whole answer."""
  text = ''
  shown = ''
  read = 0
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
  repetition_penalty: float = 1.0,
  seed: int | Sequence[int] = 0,
  thinking: bool = False,
  max_tiles: int | None = None,
  frames: int | None = None,
  prefix_cache: PrefixCache | None = None,
  compression: Compression | None = None,
  routed: Callable[[Sequence[Inputs], Sequence[Routing]], None] | None = None,
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
    repetition_penalty: of tokens in the prompt or the answer so far; 1 changes nothing.
    seed: of sampling; several conversations may have one each, and share a single one otherwise.
    thinking: reason first, by the layout's system text for it (use temperature 0.6).
    max_tiles, frames: of an image and of a video; None: the checkpoint's own.
    prefix_cache: one conversation's, given to each of its turns: only what is new since the last turn is prefilled, and
      the answer is the same.
    compression: of image tokens, for a Flash model: 'auto' by its rule, 'absolute' by its absolute threshold alone,
      'all' tiles or 'off'; None: the model's own setting, and 'off' for a base model.
    routed: called before the answers begin, with the prompts as they are without compression, and the
      `internvl.flash.routing.Routing` of each.
    stream: return an iterator of pieces of text, which joined are the answer; for one conversation.

  Raises:
    ValueError: malformed messages or media (as `Processor`), a conversation that ends with the assistant, a prompt
      that does not fit the context, sampling parameters out of range.
    FileNotFoundError: a missing image or video.
  """
  for_one = {'stream': stream, 'prefix_cache': prefix_cache is not None}
  reading = {'thinking': thinking, 'max_tiles': max_tiles, 'frames': frames}
  prompts, many = _prompts(processor, messages, images, videos, for_one=for_one, reading=reading)
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
    repetition_penalty=repetition_penalty,
    seed=seed,
    prefix_cache=prefix_cache,
    compression=compression,
    routed=routed,
  )
  if stream:
    return pieces(generation, processor)
  generation.advance()
  answers = [processor.answer(row) for row in generation.rows()]
  return answers if many else answers[0]


def _prompts(
  processor: Processor, messages: Sequence, images: Any, videos: Any, *, for_one: Mapping[str, bool], reading: Mapping
) -> tuple[list[Inputs], bool]:
  """(the prompt of each conversation, whether several were given).

  for_one: which arguments are given that take one conversation only. Raises ValueError as `chat`.
  """
  if isinstance(messages, Mapping):
    messages = [messages]
  many = bool(messages) and not isinstance(messages[0], Mapping)
  wrong = [name for name, is_given in for_one.items() if is_given]
  if many and wrong:
    raise ValueError(f'{wrong[0]} takes one conversation, not a list of them')
  talks = list(messages) if many else [messages]
  media = [_media(name, given, many, len(talks)) for name, given in (('images', images), ('videos', videos))]
  return [_prompt(processor, *talk, **reading) for talk in zip(talks, *media)], many


def _media(name: str, given: Sequence | None, many: bool, talks: int) -> list:
  """The media of each conversation."""
  if not many or given is None:
    return [given] * talks
  if not isinstance(given, (list, tuple)):
    raise ValueError(f'{name} is a {type(given).__name__}; expected a list for each of {talks} conversations')
  if len(given) != talks:
    raise ValueError(f'{name} has {len(given)} lists for {talks} conversations')
  return list(given)


def _prompt(processor: Processor, messages, images, videos, **reading: Any) -> Inputs:
  inputs = processor(messages, images, videos, **reading)
  if messages[-1]['role'] == 'assistant':
    raise ValueError('the conversation ends with the assistant; a user turn was expected')
  return inputs
