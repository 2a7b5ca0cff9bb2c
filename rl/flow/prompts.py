"""Prompts as the transformers read them: text tokens and one pooled vector.

B prompts   T text tokens   D width of the text
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from core.padding import pad
from rl.flow.files.pipeline import TextPart, Texts
from rl.flow.text import clip, t5
from rl.flow.velocity import Condition

T5_TOKENS = {'flux': 512, 'sd3': 256}  # as the published pipelines pad


def encode(texts: Texts, prompts: Sequence[str], *, width: int, tokens: int | None = None) -> Condition:
  """The condition of prompts: context [B, T, width] and pooled [B, P], each padded to one length, without a mask.

  FLUX.1: T5's states, and CLIP's pooled vector. SD3: the states of both CLIPs side by side, widened with zeros, then
  T5's, and both projected vectors; the condition of an empty prompt comes along, for guidance. Without T5 zeros take
  the place of its states. tokens: of T5, by default as the published pipelines pad. Raises ValueError for text
  encoders that are wider than the transformer's `width`.
  """
  if texts.family == 'flux':
    context = _t5_states(texts, prompts, width, tokens)
    pooled = _clip(texts.clips[0], prompts).pooled
    return Condition(context=context, pooled=pooled)
  context, pooled = _sd3(texts, [*prompts, ''], width, tokens)
  nothing = (context[-1:], pooled[-1:])
  return Condition(context=context[:-1], pooled=pooled[:-1], nothing=nothing)


def _sd3(texts: Texts, prompts: Sequence[str], width: int, tokens: int | None) -> tuple[jax.Array, jax.Array]:
  outputs = [_clip(part, prompts) for part in texts.clips]
  states = jnp.concatenate([out.penultimate for out in outputs], -1)
  narrow = states.shape[-1]
  if narrow > width:
    raise ValueError(f'the CLIP encoders have {narrow} values a token; expected at most {width}')
  widened = pad(states, width, axis=2)
  spoken = _t5_states(texts, prompts, width, tokens)
  context = jnp.concatenate([widened, spoken], 1)
  pooled = jnp.concatenate([out.pooled for out in outputs], -1)
  return context, pooled


def _clip(part: TextPart, prompts: Sequence[str]) -> clip.Output:
  tokens = part.tokenizer(prompts, part.config.length)
  return _run_clip(part.params, part.config, tokens)


_run_clip = jax.jit(clip.apply, static_argnums=1)
_run_t5 = jax.jit(t5.apply, static_argnums=1)


def _t5_states(texts: Texts, prompts: Sequence[str], width: int, tokens: int | None) -> jax.Array:
  """T5's states [B, tokens, width], or zeros."""
  length = tokens
  if tokens is None:
    length = T5_TOKENS[texts.family]
  part = texts.t5
  if part is None:
    dtype = texts.clips[0].params.norm.scale.dtype
    return jnp.zeros((len(prompts), length, width), dtype)
  if part.config.width != width:
    raise ValueError(f'T5 has {part.config.width} values a token; the transformer expects {width}')
  ids = part.tokenizer(prompts, length)
  return _run_t5(part.params, part.config, ids)
