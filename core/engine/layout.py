"""The weights as an engine holds them: layer by layer, in one dtype, in the layout that decoding reads fastest."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax

from core import decoder, mesh
from core.decoder.params import Block, Mlp
from core.params import Flat, Spec, cast, unstack
from kernels.pieces import streamed

# A step multiplies each weight with only a few rows, so gathering it would cost more than the step: nothing is sharded
# over `data`, and over `expert` only what is looked up or computed rarely, and the experts.
RULES = mesh.RULES | {'embed': None, 'expert_embed': None, 'vision': 'expert'}

_cast = jax.jit(cast, static_argnames='dtype')


@functools.partial(jax.jit, static_argnames='dtype')
def _layer(blocks, i, dtype):
  return cast(jax.tree.map(lambda w: w[i], blocks), dtype)


def unstacked(config: decoder.Config) -> decoder.Params:
  """The decoder's spec, a block for each layer."""
  spec = decoder.spec(config)

  def without_layers(s: Spec) -> Spec:
    return dataclasses.replace(s, shape=s.shape[1:], axes=s.axes[1:])

  block = jax.tree.map(without_layers, spec.blocks)
  return spec.replace(blocks=(block,) * config.depth)


def abstract(config: decoder.Config, dtype, home: mesh.Mesh) -> decoder.Params:
  """The weights of an engine on the mesh `home` as shapes."""

  def shape(s: Spec) -> jax.ShapeDtypeStruct:
    place = mesh.sharding(s.shape, s.axes, home, RULES)
    return jax.ShapeDtypeStruct(s.shape, dtype, sharding=place)

  params = jax.tree.map(shape, unstacked(config))

  def merge(w):
    inputs, *outputs = w.shape
    matrix = (math.prod(outputs), inputs)
    return jax.ShapeDtypeStruct(matrix, dtype, sharding=_rows_of_heads(w.sharding))

  return params.replace(blocks=tuple(_flat(block, merge) for block in params.blocks))


def _rows_of_heads(place: jax.NamedSharding) -> jax.NamedSharding:
  """The sharding of a matrix whose rows are the heads of a weight with sharding `place`: heads are not split."""
  inputs, heads, *_ = *place.spec, None, None
  return jax.NamedSharding(place.mesh, jax.P(heads, inputs))


def _merge(w: jax.Array) -> jax.Array:
  place = _rows_of_heads(w.sharding)
  with jax.set_mesh(place.mesh):  # training's, on more devices, may be set
    return _matrix(w, place)


@functools.partial(jax.jit, static_argnames='place')
def _matrix(w, place):
  columns = w.reshape(w.shape[0], -1)
  return jax.lax.with_sharding_constraint(columns.T, place)


def _flat(block: Any, merge: Callable) -> Any:
  """The block with its projections to heads as `core.params.Flat`; int8 and adapted ones are left as they are."""
  flat = {}
  for name in 'qkv':
    w = getattr(block.attn, name)
    if hasattr(w, 'shape'):
      flat[name] = Flat(merge(w), w.shape[1:])
  return block.replace(attn=block.attn.replace(**flat))


def for_few_rows(weights: Any, stream: Callable[[Any], Any]) -> Any:
  """Weights with `blocks` as steps of few rows want them.

  Layers are a tuple, except on TPU, where the slice of a stacked one fuses. On one CPU device they go through `stream`,
  which makes `kernels.pieces.Streamed` of what is read at every step.
  """
  first, *_ = jax.tree.leaves(weights)
  device, *others = first.devices()
  if device.platform == 'tpu':
    return weights
  if not isinstance(weights.blocks, tuple):
    weights = weights.replace(blocks=unstack(weights.blocks))
  if others or device.platform != 'cpu':
    return weights
  return stream(weights)


def as_streamed(params: decoder.Params) -> decoder.Params:
  """The decoder with the matrices of dense layers, head and embedding as `kernels.pieces.Streamed`."""
  blocks = tuple(_block_as_streamed(block) for block in params.blocks)
  return _ends_as_streamed(params).replace(blocks=blocks)


def _ends_as_streamed(params: decoder.Params) -> decoder.Params:
  if params.head is None:  # the embedding is the output matrix too, and is multiplied along its last axis
    return params
  return params.replace(embed=streamed(params.embed), head=streamed(params.head))


def _block_as_streamed(block: Block) -> Block:
  attn = _fields_as_streamed(block.attn, ('q', 'k', 'v', 'o'))
  mlp = block.mlp
  if isinstance(mlp, Mlp):  # experts are multiplied in groups, not by `core.params.einsum`
    mlp = _fields_as_streamed(mlp, ('gate', 'up', 'down'))
  return block.replace(attn=attn, mlp=mlp)


def _fields_as_streamed(weights: Any, names: tuple[str, ...]) -> Any:
  """The weights with the matrices of these names as `kernels.pieces.Streamed`."""
  matrices = {name: streamed(getattr(weights, name)) for name in names}
  return weights.replace(**matrices)


def put(params: Any, spec: Any, place: mesh.Share) -> Any:
  """The weights that `spec` describes on the devices of `place.mesh`, by way of the other engines of a share."""

  def move(s, w):
    axes = s.axes
    if w.ndim != len(axes):
      axes = (None,) * w.ndim  # a factor of an adapter: on every device
    target = mesh.sharding(w.shape, axes, place.whole, RULES)
    moved = jax.device_put(w, target)
    if place.count == 1:
      return moved
    return mesh.local_shard(moved, place.mesh)

  def move_weight(s, w):
    return jax.tree.map(functools.partial(move, s), w)  # a weight of several arrays, or a plain one

  return jax.tree.map(move_weight, spec, params)


def lay(params: decoder.Params, config: decoder.Config, place: mesh.Share) -> decoder.Params:
  """A copy of the weights, stacked or not: unstacked, in the embedding's dtype, on the engine's devices.

  Layers are moved one at a time, so that at most one of them is held twice.
  """
  spec = unstacked(config)
  dtype = params.embed.dtype
  is_stacked = not isinstance(params.blocks, tuple)
  first_device = place.mesh.devices.flat[0]
  is_one_cpu = place.mesh.size == 1 and first_device.platform == 'cpu'
  held = functools.partial(_flat, merge=_merge)
  if is_one_cpu:
    held = _block_as_streamed

  def layer(i):
    if is_stacked:
      return _layer(params.blocks, i, dtype)
    return _cast(params.blocks[i], dtype)

  blocks = []
  for i, block_spec in enumerate(spec.blocks):
    block = put(layer(i), block_spec, place)
    blocks.append(held(block))
  rest = _cast(params.replace(blocks=None), dtype)
  rest = put(rest, spec.replace(blocks=None), place)
  if is_one_cpu:
    rest = _ends_as_streamed(rest)
  return rest.replace(blocks=tuple(blocks))
