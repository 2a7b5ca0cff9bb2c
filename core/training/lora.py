"""Adapters that train in place of their weights (LoRA, arXiv 2106.09685): initialisation and dropout."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from core.params import Lora, Spec, is_weight, map_weights, named_key, path_name, stack_axes


def adapt(key: jax.Array, params: Any, spec: Any, pattern: str, *, rank: int, alpha: float = 16.0) -> Any:
  """Adds a zero-output adapter of `rank` to each weight whose name matches `pattern` fully.

  Raises ValueError when nothing matches or a match is not a matrix-like dense weight.
  """
  named, _ = jax.tree.flatten_with_path(spec)
  specs = {path_name(path): s for path, s in named}

  def with_adapter(name: str, w: Any) -> Lora:
    own_key = named_key(key, name)
    a, b = _factors(own_key, name, specs[name], rank)
    return Lora(w, a, b, alpha)

  return map_weights(with_adapter, params, pattern)


def _factors(key: jax.Array, name: str, s: Spec, rank: int) -> tuple[jax.Array, jax.Array]:
  """float32 a [stack..., inputs..., rank], normal of standard deviation 1/√(inputs), and b of zeros."""
  cut = s.stack + s.inputs
  if 'experts' in s.axes or len(s.shape) <= cut:
    raise ValueError(f'lora: {name} {s.axes} is not a dense matrix; choose a pattern of attention or MLP weights')
  stack = s.shape[: s.stack]
  inputs = s.shape[s.stack : cut]
  outputs = s.shape[cut:]
  std = 1 / math.sqrt(math.prod(inputs))
  a = std * jax.random.normal(key, (*stack, *inputs, rank), jnp.float32)
  b = jnp.zeros((*stack, rank, *outputs), jnp.float32)
  return a, b


def with_dropout(params: Any, key: jax.Array, rate: float) -> Any:
  """The weights for one pass of training; each adapter drops values of its input with a key derived from its name.

  As PEFT's `lora_dropout`: the base sees all of its input. Raises ValueError unless 0 <= rate < 1.
  """
  if not 0 <= rate < 1:
    raise ValueError(f'dropout={rate}: expected a share from 0 to below 1')

  def visit(path, w):
    if not isinstance(w, Lora):
      return w
    name = jax.tree_util.keystr(path)
    adapter_key = named_key(key, name)
    layers = w.a.shape[: stack_axes(w)]
    keys = jax.random.split(adapter_key, layers)
    return w.replace(keys=keys, dropout=rate)

  return jax.tree.map_with_path(visit, params, is_leaf=is_weight)
