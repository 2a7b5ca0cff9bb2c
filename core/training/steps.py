"""The trainable part of a tree, the state of training, and one jitted step.

A loss reports sums and the weights they are sums over, never means: sums can be added over micro-batches,
packed rows and devices, and one division at the end gives exactly the mean over the whole batch.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from core.params import path_name


def partition(params, trainable: str):
  """`(trainable, frozen)`: two trees of the structure of `params`, each with None where the other has a leaf.

  A leaf is trainable when the regular expression `trainable` matches its whole dotted path. None is an empty
  subtree to JAX, so the frozen part gets no gradient and no optimiser state.
  Raises ValueError when nothing matches.
  """

  def is_chosen(path, _) -> bool:
    return re.fullmatch(trainable, path_name(path)) is not None

  chosen = jax.tree.map_with_path(is_chosen, params)
  if not any(jax.tree.leaves(chosen)):
    names = [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
    some = ', '.join(names[:3])
    raise ValueError(f'trainable={trainable!r} matches none of the {len(names)} weights, such as {some}')

  def take(wanted: bool):
    return jax.tree.map(lambda x, c: x if c == wanted else None, params, chosen)

  return take(True), take(False)


def merge(trainable, frozen):
  """The whole tree again from `partition`'s two. Raises ValueError where both or neither hold a leaf."""
  if frozen is None:
    return trainable

  def either(path, a, b):
    if a is not None and b is not None:
      raise ValueError(f'{path_name(path)} is in the trainable and in the frozen part')
    if a is None:
      return b
    return a

  return jax.tree.map_with_path(either, trainable, frozen, is_leaf=lambda x: x is None)


@struct.dataclass
class Loss:
  """What a loss function returns: sums over the items of a batch, and what they are sums over."""

  total: Any  # [] sum of weighted losses
  weight: Any  # [] sum of the weights
  metrics: dict[str, tuple[Any, Any]] = struct.field(default_factory=dict)  # name -> (sum, weight)
  carry: Any = None  # what the loss remembers for its next evaluation
  maxima: dict[str, Any] = struct.field(default_factory=dict)  # name -> largest value of an item


@struct.dataclass
class TrainState:
  """Everything a step changes."""

  step: Any  # [] int32: batches seen
  params: Any  # the trainable part
  opt_state: Any
  carry: Any = None  # the loss's own memory, such as MPO's running reward shift


def _wide(tree):
  """Low-precision leaves as float32: moments and updates keep their digits when the weights are bfloat16."""

  def widen(x):
    if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4:
      return x.astype(jnp.float32)
    return x

  return jax.tree.map(widen, tree)


def init_state(params, tx: optax.GradientTransformation, carry: Any = None) -> TrainState:
  """The state before the first step. A moment is sharded as its weight; all else is replicated."""
  make = _make(tx, carry)
  if _mesh(params) is None:
    return make(params).replace(params=params)
  abstract = abstract_state(params, tx, carry).replace(params=None)
  places = jax.tree.map(lambda x: x.sharding, abstract)
  state = jax.jit(make, out_shardings=places)(params)
  return state.replace(params=params)


def abstract_state(params, tx: optax.GradientTransformation, carry: Any = None) -> TrainState:
  """`init_state` as `jax.ShapeDtypeStruct`s with shardings, for parameters (abstract or not) on a mesh."""
  weights = {path_name(path): x for path, x in jax.tree.leaves_with_path(params)}
  replicated = jax.sharding.NamedSharding(_mesh(params), jax.P())

  def place(path, x):
    keys = path_name(path).split('.')  # opt_state.mu.<name of a weight>
    names = ('.'.join(keys[i:]) for i in range(len(keys)))
    weight = next((weights[name] for name in names if name in weights), None)
    is_moment = weight is not None and weight.shape == x.shape
    sharding = weight.sharding if is_moment else replicated
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  state = jax.eval_shape(_make(tx, carry), params)
  state = jax.tree.map_with_path(place, state)
  abstract = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
  return state.replace(params=jax.tree.map(abstract, params))


def _make(tx, carry):
  """The function of parameters that makes the rest of a state."""

  def make(params) -> TrainState:
    opt_state = tx.init(_wide(params))
    arrays = jax.tree.map(jnp.asarray, carry)
    return TrainState(jnp.int32(0), None, opt_state, arrays)

  return make


def _mesh(params):
  """The mesh that a leaf of `params` is sharded over, or None."""
  places = (x.sharding for x in jax.tree.leaves(params))
  return next((s.mesh for s in places if isinstance(s, jax.sharding.NamedSharding)), None)


def _split(batch, parts: int):
  """[B, ...] leaves as [parts, B / parts, ...]. Strided, so that each part stays sharded over the devices."""

  def split(path, x):
    rows = x.shape[0]
    if rows % parts:
      raise ValueError(f'batch leaf {path_name(path)} has {rows} rows: expected a multiple of accumulate={parts}')
    strided = x.reshape(rows // parts, parts, *x.shape[1:])
    return strided.swapaxes(0, 1)

  return jax.tree.map_with_path(split, batch)


def _gradient(loss_fn, params, frozen, batch, key, carry, accumulate):
  """Gradient of the summed loss (float32 tree), the summed `Loss`, and the carry of the last evaluation."""

  def one(carry, batch, key):
    remembered = () if carry is None else (carry,)

    def total(params):
      loss = loss_fn(merge(params, frozen), batch, key, *remembered)
      sums = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), loss.replace(carry=None))
      return sums.total, (sums, loss.carry)

    (_, (loss, carry)), grads = jax.value_and_grad(total, has_aux=True)(params)
    return carry, (_wide(grads), loss)

  if accumulate == 1:
    carry, (grads, loss) = one(carry, batch, key)
    return grads, loss, carry

  def body(state, numbered_part):
    carry, sums = state
    i, part = numbered_part
    carry, new = one(carry, part, jax.random.fold_in(key, i))
    return (carry, _joined(sums, new)), None

  parts = _split(batch, accumulate)
  first = jax.tree.map(lambda x: x[0], parts)
  _, shapes = jax.eval_shape(one, carry, first, key)
  grads, loss = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  lowest = jax.tree.map(lambda x: jnp.full_like(x, -jnp.inf), loss.maxima)
  numbered = (jnp.arange(accumulate), parts)
  start = (grads, loss.replace(maxima=lowest))
  (carry, (grads, loss)), _ = jax.lax.scan(body, (carry, start), numbered)
  return grads, loss, carry


def _joined(first, second):
  """(gradients, `Loss`) of two micro-batches: sums are added, of maxima the larger stays."""
  (_, a), (_, b) = first, second
  grads, loss = jax.tree.map(jnp.add, first, second)
  maxima = jax.tree.map(jnp.maximum, a.maxima, b.maxima)
  return grads, loss.replace(maxima=maxima)


def _mean(total, weight):
  """total / weight; 0 for a weight of 0."""
  is_empty = weight == 0
  divisor = jnp.where(is_empty, 1, weight)
  return jnp.where(is_empty, 0.0, total / divisor)


def make_step(
  loss_fn: Callable[..., Loss], tx: optax.GradientTransformation, *, accumulate: int = 1, places: Any = None
) -> Callable:
  """A jitted `step(state, frozen, batch, key, reference=None) -> (state, metrics)`; `state` alone is donated.

  `loss_fn(params, batch, key) -> Loss` sees the whole parameter tree. The step minimises Σ total / Σ weight
  over the whole batch, in `accumulate` micro-batches (a scan over a split of the leading axis of every batch
  leaf), whose number changes nothing but memory. `frozen` may be None. `places`: the state's tree of
  shardings; without it XLA chooses a sharding of the new state, which may differ from the old one's.

  If `state.carry` is not None the loss is `loss_fn(params, batch, key, carry)` and returns the next one, of the same
  structure, in `Loss.carry`: each micro-batch passes it to the one after it, no gradient flows through it, and the
  state keeps the last.

  `reference`: weights that the loss compares with, such as those of a teacher, which `loss_fn` takes by that keyword;
  it is not differentiated, not donated, and whole in every micro-batch. It must not share buffers with `state`.

  metrics: loss, weight, grad_norm, lr (if `tx` is from `optimizer`), skipped, and the loss's own: means and maxima.
  A batch of weight 0, or whose gradient is not finite, leaves parameters, optimiser and carry as they were and
  reports skipped = 1.
  """
  if accumulate < 1:
    raise ValueError(f'accumulate={accumulate}: expected 1 or more')

  def step(state, frozen, batch, key, reference=None):
    given = loss_fn
    if reference is not None:
      given = functools.partial(loss_fn, reference=jax.lax.stop_gradient(reference))
    grads, loss, carry = _gradient(given, state.params, frozen, batch, key, state.carry, accumulate)
    grads = jax.tree.map(lambda g: _mean(g, loss.weight), grads)
    norm = optax.global_norm(grads)
    good = jnp.isfinite(norm) & (loss.weight != 0)
    updates, opt_state = tx.update(grads, state.opt_state, _wide(state.params))
    params = optax.apply_updates(state.params, updates)

    def if_good(new, old):
      return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)

    params = if_good(params, state.params)
    opt_state = if_good(opt_state, state.opt_state)
    carry = if_good(carry, state.carry)
    metrics = {name: _mean(*pair) for name, pair in loss.metrics.items()}
    metrics |= loss.maxima
    metrics |= {
      'loss': _mean(loss.total, loss.weight),
      'weight': loss.weight,
      'grad_norm': norm,
      'skipped': 1 - good.astype(jnp.int32),
    }
    rate = optax.tree.get(opt_state, 'Rate')
    if rate is not None:
      metrics['lr'] = rate.rate
    return TrainState(state.step + 1, params, opt_state, carry), metrics

  return jax.jit(step, donate_argnums=0, out_shardings=(places, None))
