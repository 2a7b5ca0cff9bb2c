"""Weights of the transformers.

D width   N heads   H head size   F feed-forward   P patch side   C channels
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core.params import Spec, ones, stacked, zeros
from core.params import init as draw
from rl.flow.mmdit import positions
from rl.flow.mmdit.config import TIME_WIDTH, Config


@struct.dataclass(kw_only=True)
class Linear:
  """A product and a bias over its outputs."""

  weight: Any  # [inputs..., outputs...]
  bias: Any  # [outputs...]


@struct.dataclass(kw_only=True)
class TwoLayers:
  """Two products with SiLU between them."""

  up: Linear  # [inputs, D]
  down: Linear  # [D, D]


@struct.dataclass(kw_only=True)
class Attention:
  """Projections of one stream to and from attention."""

  q: Linear  # [D, N, H]
  k: Linear
  v: Linear
  o: Linear | None = None  # [N, H, D]; None: nothing reads the result
  q_norm: Any = None  # [H]; None without q/k norm
  k_norm: Any = None


@struct.dataclass(kw_only=True)
class Stream:
  """Weights of text or image in a joint block."""

  modulation: Linear  # [D, parts, D]; `blocks.PARTS` names the parts
  attn: Attention
  own: Attention | None = None  # a second attention, over this stream alone
  up: Linear | None = None  # [D, F]; None: nothing reads the result
  down: Linear | None = None  # [F, D]


@struct.dataclass(kw_only=True)
class Joint:
  """A block in which text and image attend to both."""

  text: Stream
  image: Stream


@struct.dataclass(kw_only=True)
class Single:
  """A block over text and image as one sequence: attention and feed-forward layer in parallel."""

  modulation: Linear  # [D, 3, D]
  attn: Attention
  up: Linear  # [D, F]
  out: Linear  # [D + F, D]: of attention's result and the hidden units


@struct.dataclass(kw_only=True)
class Params:
  """Weights of a transformer; None where a configuration has none. Stacks have a leading layer axis."""

  patch: Linear  # [P, P, C, D]
  positions: Any = None  # [table, table, D]; a constant that checkpoints store, never trained
  context: Linear  # [text, D]
  time: TwoLayers
  guidance: TwoLayers | None = None
  pooled: TwoLayers
  dual: Joint | None = None
  joint: Joint | None = None
  last: Joint | None = None
  single: Single | None = None
  modulation: Linear  # [D, 2, D]: of the output
  out: Linear  # [D, P, P, C]


def _linear(shape: tuple[int, ...], axes: tuple[str | None, ...], *, inputs: int = 1, init=None) -> Linear:
  outputs = shape[inputs:]
  bias = Spec(outputs, (None,) * len(outputs), zeros)
  return Linear(weight=Spec(shape, axes, init, inputs=inputs), bias=bias)


def _modulation(c: Config, parts: int) -> Linear:
  """Starts at 0, so that every block starts as the identity (adaLN-Zero, arXiv 2212.09748)."""
  return _linear((c.width, parts, c.width), ('embed', None, 'mlp'), init=zeros)


def _two_layers(c: Config, inputs: int) -> TwoLayers:
  down = _linear((c.width, c.width), ('mlp', 'embed'))
  return TwoLayers(up=_linear((inputs, c.width), (None, 'mlp')), down=down)


def _attention(c: Config, *, out: bool) -> Attention:
  d = c.width
  n = c.heads
  h = c.head_dim
  into = _linear((d, n, h), ('embed', 'heads', None))
  norm = None
  if c.qk_norm:
    norm = Spec((h,), (None,), ones)
  o = None
  if out:
    o = _linear((n, h, d), ('heads', None, 'embed'), inputs=2)
  return Attention(q=into, k=into, v=into, o=o, q_norm=norm, k_norm=norm)


def _up(c: Config) -> Linear:
  return _linear((c.width, c.hidden), ('embed', 'mlp'))


def _stream(c: Config, *, own: bool = False) -> Stream:
  return Stream(
    modulation=_modulation(c, 9 if own else 6),
    attn=_attention(c, out=True),
    own=_attention(c, out=True) if own else None,
    up=_up(c),
    down=_linear((c.hidden, c.width), ('mlp', 'embed')),
  )


def _single(c: Config) -> Single:
  return Single(
    modulation=_modulation(c, 3),
    attn=_attention(c, out=False),
    up=_up(c),
    out=_linear((c.width + c.hidden, c.width), ('mlp', 'embed')),
  )


def _stack(block: Any, depth: int) -> Any:
  if depth:
    return stacked(block, depth)
  return None


def spec(config: Config) -> Params:
  """Every weight, once."""
  c = config
  text = _stream(c)
  image = _stream(c)
  unread = Stream(modulation=_modulation(c, 2), attn=_attention(c, out=False))
  table = None
  if c.table is not None:
    table = Spec(
      (c.table, c.table, c.width), (None, None, None), positions.initialiser(c.table_extent), inputs=0, constant=True
    )
  return Params(
    patch=_linear((c.patch, c.patch, c.channels, c.width), (None, None, None, 'embed'), inputs=3),
    positions=table,
    context=_linear((c.text, c.width), (None, 'embed')),
    time=_two_layers(c, TIME_WIDTH),
    guidance=_two_layers(c, TIME_WIDTH) if c.guidance else None,
    pooled=_two_layers(c, c.pooled),
    dual=_stack(Joint(text=text, image=_stream(c, own=True)), c.dual),
    joint=_stack(Joint(text=text, image=image), c.plain),
    last=_stack(Joint(text=unread, image=image), c.last),
    single=_stack(_single(c), c.single),
    modulation=_modulation(c, 2),
    out=_linear((c.width, c.patch, c.patch, c.channels), ('embed', None, None, None), init=zeros),
  )


def init(key: jax.Array, config: Config, dtype=jnp.float32) -> Params:
  """Random weights as training starts with them; their velocity is 0."""
  return draw(key, spec(config), dtype)
