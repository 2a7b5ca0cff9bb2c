"""The parts of a `core.decoder` that a plan counts."""

from collections.abc import Callable

from core import decoder
from core.plan.program import Part


def triangle(length: int, window: int | None) -> float:
  """Visible pairs of query and key in a causal row of `length` tokens, each of which sees the last `window` tokens."""
  w = min(length, window or length)
  return w * (w + 1) / 2 + (length - w) * w


def decoder_parts(
  config: decoder.Config, *, tokens: int, scored: int, pairs: Callable[[int | None], float]
) -> tuple[Part, Part]:
  """The blocks and the head of a decoder that reads `tokens` tokens and predicts the successors of `scored` of them.

  pairs(window): visible pairs of query and key in a layer with that window.
  """
  spec = decoder.spec(config)
  layers = config.depth // len(config.windows)
  # QKᵀ and PV: 2 FLOPs a multiply-add, N·H products each, for every visible pair.
  causal = 4.0 * config.heads * config.head_dim * layers * sum(map(pairs, config.windows))
  table = 0.0
  if config.tied:
    table = 2.0 * config.width * config.vocab * scored
  active = 1.0
  if config.moe:
    active = config.moe.top_k / config.moe.experts
  return (
    Part('language model', spec.replace(head=None), tokens, causal, active=active),
    Part('head', spec.head, scored, 0.0, table=table),
  )
