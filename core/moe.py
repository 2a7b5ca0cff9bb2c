"""Mixture of experts: top-k routing and grouped matrix products, exact (no capacity, no dropped token).

M tokens   D width   E experts   F expert feed-forward   k experts a token

Under a mesh with an `expert` axis each device gathers the tokens of its expert group, runs its own experts and
reduce-scatters the sums: the same traffic as an all-to-all as long as that axis is no wider than k.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from core.mesh import RULES, partition
from core.padding import pad
from core.params import Spec, dense, einsum, zeros

GPT_OSS_LIMIT = 7.0
GPT_OSS_ALPHA = 1.702
CHUNK = 32768  # tokens that a device multiplies at a time, each by k experts


@dataclasses.dataclass(frozen=True)
class Config:
  """experts, top_k and width (F) of every layer. `activation`: 'silu' (Qwen3) or 'clamped' (GPT-OSS)."""

  experts: int
  top_k: int
  width: int
  activation: str = 'silu'
  bias: bool = False  # of the router and the experts
  aux_coef: float = 0.0  # coefficient of the balance loss in the model's own training, as published

  def __post_init__(self):
    if not 1 <= self.top_k <= self.experts:
      raise ValueError(f'moe: top_k={self.top_k} must be in 1..experts={self.experts}')
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
  e = config.experts
  f = config.width
  wide = Spec((e, width, f), ('experts', 'expert_embed', 'mlp'))
  weights = Params(
    router=Spec((width, e), ('embed', None)),
    gate=wide,
    up=wide,
    down=Spec((e, f, width), ('experts', 'mlp', 'expert_embed')),
  )
  if not config.bias:
    return weights
  wide_bias = Spec((e, f), ('experts', 'mlp'), zeros)
  return weights.replace(
    router_bias=Spec((e,), (None,), zeros),
    gate_bias=wide_bias,
    up_bias=wide_bias,
    down_bias=Spec((e, width), ('experts', None), zeros),
  )


def _silu(gate, up):
  return jax.nn.silu(gate) * up


def _clamped(gate, up):
  """GPT-OSS SwiGLU: the gate clipped above, up clipped both ways and shifted by one."""
  gate = jnp.minimum(gate, GPT_OSS_LIMIT)
  up = jnp.clip(up, -GPT_OSS_LIMIT, GPT_OSS_LIMIT)
  sigmoid = jax.nn.sigmoid(GPT_OSS_ALPHA * gate)
  return (up + 1) * gate * sigmoid


ACTIVATIONS = {'silu': _silu, 'clamped': _clamped}


def route(p: Params, x: jax.Array, config: Config):
  """Router of x [..., D]: (weights [..., k] summing to 1, experts [..., k], logits [..., E]), float32.

  Softmax over all experts, top-k, renormalised (Qwen3) and softmax over the top-k logits (GPT-OSS) are equal.
  """
  logits = einsum('...d,de->...e', x, p.router)
  logits = logits.astype(jnp.float32)
  if p.router_bias is not None:
    logits = logits + p.router_bias
  best, chosen = jax.lax.top_k(logits, config.top_k)
  weights = jax.nn.softmax(best, -1)
  return weights, chosen, logits


def load(logits: jax.Array, chosen: jax.Array, mask: jax.Array) -> jax.Array:
  """The load of each expert over the tokens of `mask`: (share routed, mean probability), float32 [2, E]."""
  experts = logits.shape[-1]
  mask = mask[..., None].astype(jnp.float32)
  tokens = jnp.maximum(mask.sum(), 1)

  def mean(values):
    by_token = (values * mask).reshape(-1, experts)
    return by_token.sum(0) / tokens

  probability = mean(jax.nn.softmax(logits, -1))
  routed = jax.nn.one_hot(chosen, experts)
  share = mean(routed.sum(-2))
  return jnp.stack([share, probability])


def balance(loads: jax.Array) -> jax.Array:
  """Load-balancing loss (Switch, arXiv 2101.03961 eq. 4) of loads [L, 2, E]: E · Σ_e share · probability.

  The tokens of all layers are averaged before the product, as in transformers.
  """
  experts = loads.shape[-1]
  share, probability = loads.mean(0)
  return experts * jnp.sum(share * probability)


def _experts(p: Params, x, weights, chosen, first, config: Config):
  """Σ_k weight · expert(x) over the experts of `p`, numbered from `first`; x [M, D], weights and chosen [M, k].

  The M·k (token, expert) pairs are sorted by expert, so one grouped product serves all experts: each multiplies a
  contiguous run of rows.
  """
  count = p.gate.shape[0]
  expert = chosen.reshape(-1) - first
  is_local = (expert >= 0) & (expert < count)
  expert = jnp.where(is_local, expert, count)  # pairs of other devices' experts sort last and add nothing
  order = jnp.argsort(expert)
  expert = expert[order]
  token = order // config.top_k
  sizes = jnp.bincount(expert, length=count + 1)
  sizes = sizes[:count].astype(jnp.int32)
  is_local = expert < count
  is_local = is_local[:, None]

  def product(rows, weight, bias):
    out = jax.lax.ragged_dot(rows, weight, sizes)
    if bias is not None:
      own = jnp.minimum(expert, count - 1)
      out = out + bias[own]
    return jnp.where(is_local, out, 0)

  activation = ACTIVATIONS[config.activation]
  rows = x[token]
  gate = product(rows, p.gate, p.gate_bias)
  up = product(rows, p.up, p.up_bias)
  hidden = activation(gate, up)
  scale = weights.reshape(-1)[order].astype(x.dtype)
  out = product(hidden, p.down, p.down_bias) * scale[:, None]
  return jnp.zeros_like(x).at[token].add(out)


def _in_chunks(p: Params, x, weights, chosen, first, config: Config):
  """`_experts` over `CHUNK` tokens at a time, recomputed in the backward pass: the k copies are never held whole."""
  tokens, width = x.shape
  chunks = -(-tokens // CHUNK)
  if chunks == 1:
    return _experts(p, x, weights, chosen, first, config)
  size = -(-tokens // chunks)

  def split(a, fill):
    padded = pad(a, chunks * size, fill=fill)
    return padded.reshape(chunks, size, a.shape[-1])

  @jax.checkpoint
  def one_chunk(args):
    return _experts(p, *args, first, config)

  # Padded tokens choose expert -1, which no device holds.
  args = (split(x, 0), split(weights, 0), split(chosen, -1))
  y = jax.lax.map(one_chunk, args)
  return y.reshape(-1, width)[:tokens]


def _flat(a: jax.Array) -> jax.Array:
  """[B, T, n] as [B·T, n]."""
  return a.reshape(-1, a.shape[-1])


def _partition_experts(p: Params, mesh, rules) -> Params:
  """The `PartitionSpec` of each expert weight of `p`."""
  experts, width, hidden = p.gate.shape
  wide = partition((experts, width, hidden), ('experts', None, 'mlp'), mesh, rules)
  down = partition((experts, hidden, width), ('experts', 'mlp', None), mesh, rules)
  specs = Params(router=None, gate=wide, up=wide, down=down)
  if p.gate_bias is None:
    return specs
  bias = partition((experts, hidden), ('experts', 'mlp'), mesh, rules)
  down_bias = partition((experts, width), ('experts', None), mesh, rules)
  return specs.replace(gate_bias=bias, up_bias=bias, down_bias=down_bias)


def _sharded(p: Params, x, weights, chosen, config: Config, mesh, rules):
  """The experts on every device of `mesh`; p without a router, x [B, T, D], weights and chosen [B, T, k]."""
  specs = _partition_experts(p, mesh, rules)
  expert_axis, _, width_axis = specs.gate
  if expert_axis is None and mesh.shape['expert'] > 1:
    raise ValueError(f'{config.experts} experts do not divide over expert={mesh.shape["expert"]}')
  data = partition(x.shape, ('batch', 'time', None), mesh, rules)
  batch_axes, _, _ = data
  is_batch_split = batch_axes is not None and 'expert' in batch_axes  # the expert axis also shards the batch
  is_width_split = width_axis is not None

  def gather(a):
    if is_batch_split:
      return jax.lax.all_gather(a, 'expert', axis=0, tiled=True)
    return a

  def local(p, x, weights, chosen):
    first = jax.lax.axis_index('expert') * p.gate.shape[0]
    if is_width_split:
      p = _with_bias_once(p)
    tokens = [_flat(gather(a)) for a in (x, weights, chosen)]
    y = _in_chunks(p, *tokens, first, config)
    y = y.reshape(-1, *x.shape[1:])
    if is_width_split:
      y = jax.lax.psum(y, 'model')
    if is_batch_split:
      return jax.lax.psum_scatter(y, 'expert', scatter_dimension=0, tiled=True)
    return jax.lax.psum(y, 'expert')

  run = jax.shard_map(local, in_specs=(specs, data, data, data), out_specs=data, check_vma=False)
  return run(p, x, weights, chosen)


def _with_bias_once(p: Params) -> Params:
  """p with the output's bias on the first device of the model axis only: its sum must count the bias once."""
  if p.down_bias is None:
    return p
  is_first = jax.lax.axis_index('model') == 0
  return p.replace(down_bias=jnp.where(is_first, p.down_bias, 0))


def moe(p: Params, x: jax.Array, config: Config, rules=RULES):
  """The layer on x [B, T, D]: (output [B, T, D], logits [B, T, E], chosen [B, T, k])."""
  weights, chosen, logits = route(p, x, config)
  experts = p.replace(
    router=None,
    router_bias=None,
    gate=dense(p.gate),
    up=dense(p.up),
    down=dense(p.down),
  )
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    tokens = map(_flat, (x, weights, chosen))
    y = _in_chunks(experts, *tokens, 0, config)
    y = y.reshape(x.shape)
  else:
    y = _sharded(experts, x, weights, chosen, config, mesh, rules)
  return y, logits, chosen
