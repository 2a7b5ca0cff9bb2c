"""Mixture of experts: top-k routing and grouped matrix products, exact (no capacity, no dropped token).

M tokens   D width   E experts   F expert feed-forward   k experts a token

Under a mesh with an `expert` axis each device gathers the tokens of its expert group, runs its own experts and
scatters the sums back: the traffic of an all-to-all while that axis is no wider than k.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from core.mesh import RULES, partition
from core.padding import pad
from core.params import Spec, dense, einsum, zeros

GPT_OSS_LIMIT, GPT_OSS_ALPHA = 7.0, 1.702
PIECE = 32768  # tokens whose k copies a device multiplies at a time


@dataclasses.dataclass(frozen=True)
class Config:
  """experts, top_k and width (F) of every layer. `activation`: 'silu' (Qwen3) or 'clamped' (GPT-OSS)."""

  experts: int
  top_k: int
  width: int
  activation: str = 'silu'
  bias: bool = False  # of the router and the experts
  aux_coef: float = 0.0  # as published: what the model's own training multiplied its balance loss by

  def __post_init__(self):
    if not 1 <= self.top_k <= self.experts:
      raise ValueError(f'moe: top_k={self.top_k} must lie in 1..experts={self.experts}')
    if self.activation not in ACTIVATIONS:
      raise ValueError(f'moe: activation={self.activation!r}; expected one of {sorted(ACTIVATIONS)}')


@struct.dataclass(kw_only=True)
class Params:
  """Weights of one mixture layer; None where the family has no biases."""

  router: jax.Array  # [D, E]
  gate: jax.Array  # [E, D, F]
  up: jax.Array  # [E, D, F]
  down: jax.Array  # [E, F, D]
  router_bias: jax.Array | None = None  # [E]
  gate_bias: jax.Array | None = None  # [E, F]
  up_bias: jax.Array | None = None  # [E, F]
  down_bias: jax.Array | None = None  # [E, D]


def spec(config: Config, width: int) -> Params:
  """The weights of one layer of model width `width`."""
  e, f, bias = config.experts, config.width, config.bias
  wide = Spec((e, width, f), ('experts', 'expert_embed', 'mlp'))
  return Params(
    router=Spec((width, e), ('embed', None)),
    gate=wide,
    up=wide,
    down=Spec((e, f, width), ('experts', 'mlp', 'expert_embed')),
    router_bias=Spec((e,), (None,), zeros) if bias else None,
    gate_bias=Spec((e, f), ('experts', 'mlp'), zeros) if bias else None,
    up_bias=Spec((e, f), ('experts', 'mlp'), zeros) if bias else None,
    down_bias=Spec((e, width), ('experts', None), zeros) if bias else None,
  )


def _silu(gate, up):
  return jax.nn.silu(gate) * up


def _clamped(gate, up):
  """GPT-OSS SwiGLU: the gate clipped above, up clipped both ways and shifted by one."""
  gate, up = jnp.minimum(gate, GPT_OSS_LIMIT), jnp.clip(up, -GPT_OSS_LIMIT, GPT_OSS_LIMIT)
  return (up + 1) * gate * jax.nn.sigmoid(GPT_OSS_ALPHA * gate)


ACTIVATIONS = {'silu': _silu, 'clamped': _clamped}


def route(p: Params, x: jax.Array, config: Config):
  """Router of x [..., D]: (weights [..., k] summing to 1, experts [..., k], logits [..., E]), float32.

  Softmax over all experts, top-k, renormalised (Qwen3) and softmax over the top-k logits (GPT-OSS) are equal.
  """
  logits = einsum('...d,de->...e', x, p.router).astype(jnp.float32)
  if p.router_bias is not None:
    logits = logits + p.router_bias
  best, chosen = jax.lax.top_k(logits, config.top_k)
  return jax.nn.softmax(best, -1), chosen, logits


def load(logits: jax.Array, chosen: jax.Array, mask: jax.Array) -> jax.Array:
  """What a layer asks of each expert, over the tokens of `mask`: (share routed, mean probability), float32 [2, E]."""
  experts = logits.shape[-1]
  mask = mask[..., None].astype(jnp.float32)
  tokens = jnp.maximum(mask.sum(), 1)
  probability = (jax.nn.softmax(logits, -1) * mask).reshape(-1, experts).sum(0) / tokens
  share = (jax.nn.one_hot(chosen, experts).sum(-2) * mask).reshape(-1, experts).sum(0) / tokens
  return jnp.stack([share, probability])


def balance(loads: jax.Array) -> jax.Array:
  """Load-balancing loss (Switch, arXiv 2101.03961 eq. 4) of loads [L, 2, E]: E · Σ_e share · probability.

  As transformers has it, the tokens of all layers are averaged before the product.
  """
  share, probability = loads.mean(0)
  return loads.shape[-1] * jnp.sum(share * probability)


def _experts(p: Params, x, weights, chosen, first, config: Config):
  """Σ_k weight · expert(x) over the experts held here: x [M, D], `first` the number of the first of them."""
  held = p.gate.shape[0]
  ids = chosen.reshape(-1) - first
  ids = jnp.where((ids >= 0) & (ids < held), ids, held)  # others sort last and count for nothing
  order = jnp.argsort(ids)
  ids, source = ids[order], order // config.top_k
  sizes = jnp.bincount(ids, length=held + 1)[:held].astype(jnp.int32)
  mine = (ids < held)[:, None]
  bias = lambda b: 0 if b is None else b[jnp.minimum(ids, held - 1)]
  product = lambda a, w, b: jnp.where(mine, jax.lax.ragged_dot(a, w, sizes) + bias(b), 0)
  rows = x[source]
  hidden = ACTIVATIONS[config.activation](product(rows, p.gate, p.gate_bias), product(rows, p.up, p.up_bias))
  out = product(hidden, p.down, p.down_bias) * weights.reshape(-1)[order][:, None].astype(x.dtype)
  return jnp.zeros_like(x).at[source].add(out)


def _in_pieces(p: Params, x, weights, chosen, first, config: Config):
  """`_experts` over `PIECE` tokens at a time, recomputed in the backward pass: the k copies are never held whole."""
  pieces = -(-x.shape[0] // PIECE)
  if pieces == 1:
    return _experts(p, x, weights, chosen, first, config)
  size = -(-x.shape[0] // pieces)
  split = lambda a, fill: pad(a, pieces * size, fill=fill).reshape(pieces, size, a.shape[-1])
  one = jax.checkpoint(lambda args: _experts(p, *args, first, config))
  y = jax.lax.map(one, (split(x, 0), split(weights, 0), split(chosen, -1)))
  return y.reshape(-1, x.shape[-1])[: x.shape[0]]


def moe(p: Params, x: jax.Array, config: Config, rules=RULES):
  """The layer on x [B, T, D]: (output [B, T, D], logits [B, T, E], chosen [B, T, k])."""
  weights, chosen, logits = route(p, x, config)
  p = p.replace(gate=dense(p.gate), up=dense(p.up), down=dense(p.down))
  mesh = jax.sharding.get_abstract_mesh()
  flat = lambda a: a.reshape(-1, a.shape[-1])
  if mesh.empty:
    return _in_pieces(p, flat(x), flat(weights), flat(chosen), 0, config).reshape(x.shape), logits, chosen

  def local(p, x, weights, chosen):
    gather = lambda a: jax.lax.all_gather(a, 'expert', axis=0, tiled=True) if split else a
    first = jax.lax.axis_index('expert') * p.gate.shape[0]
    if tensor and p.down_bias is not None:  # the partial sums of the tensor axis carry the bias once
      p = p.replace(down_bias=jnp.where(jax.lax.axis_index('model') == 0, p.down_bias, 0))
    y = _in_pieces(p, *(flat(gather(a)) for a in (x, weights, chosen)), first, config)
    y = y.reshape(-1, *x.shape[1:])
    y = jax.lax.psum(y, 'model') if tensor else y
    return jax.lax.psum_scatter(y, 'expert', scatter_dimension=0, tiled=True) if split else jax.lax.psum(y, 'expert')

  place = lambda a, *axes: partition(a.shape, axes, mesh, rules)
  data = place(x, 'batch', 'time', None)
  split = data[0] is not None and 'expert' in data[0]  # the batch is spread over the expert axis too
  wide, vector = place(p.gate, 'experts', None, 'mlp'), place(p.gate[..., 0, :], 'experts', 'mlp')
  none = lambda b, s: None if b is None else s
  specs = Params(
    router=None,
    router_bias=None,
    gate=wide,
    up=wide,
    down=place(p.down, 'experts', 'mlp', None),
    gate_bias=none(p.gate_bias, vector),
    up_bias=none(p.up_bias, vector),
    down_bias=none(p.down_bias, place(p.down[:, 0], 'experts', None)),
  )
  tensor = wide[2] is not None
  if wide[0] is None and mesh.shape['expert'] > 1:
    raise ValueError(f'{config.experts} experts do not divide over expert={mesh.shape["expert"]}')
  run = jax.shard_map(local, in_specs=(specs, data, data, data), out_specs=data, check_vma=False)
  return run(p.replace(router=None, router_bias=None), x, weights, chosen), logits, chosen
