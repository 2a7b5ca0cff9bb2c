"""Training as pure functions: the optimiser by name, the trainable part of a tree, one jitted step.

A loss reports sums and the weights they are sums over, never means: sums can be added over micro-batches,
packed rows and devices, and one division at the end gives exactly the mean over the whole batch.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from core.launch.config import field
from core.params import path_name


@dataclasses.dataclass(frozen=True)
class Optim:
  """An optimiser and its schedule. None means the value usual for that optimiser."""

  name: Literal['adamw', 'adafactor', 'muon'] = field('adamw', 'update rule')
  lr: float = field(3e-4, 'peak learning rate')
  schedule: Literal['constant', 'linear', 'cosine'] = field('cosine', 'shape of the decay after warm-up')
  warmup_steps: int = field(0, 'updates over which the rate rises linearly from 0 to lr')
  end: float = field(0.0, 'last rate of a linear or cosine schedule, as a fraction of lr')
  b1: float | None = field(None, 'first-moment decay: 0.9 for adamw, 0.95 for muon, off for adafactor')
  b2: float | None = field(None, 'second-moment decay of adam (also inside muon): 0.999; adafactor has none')
  eps: float | None = field(None, 'added to denominators: 1e-8 for adamw and muon, 1e-30 for adafactor')
  weight_decay: float = field(0.0, 'decoupled decay, times the rate; not on norms, biases and scales')
  clip_norm: float | None = field(1.0, 'largest global gradient norm; none = no clipping')

  def __post_init__(self):
    def expect(name, ok, what):
      value = getattr(self, name)
      if value is not None and not ok(value):
        raise ValueError(f'{name}={value!r}: expected {what}')

    expect('name', lambda v: v in RULES, f'one of {", ".join(RULES)}')
    expect('schedule', lambda v: v in ('constant', 'linear', 'cosine'), 'one of constant, linear, cosine')
    expect('lr', lambda v: 0 < v < float('inf'), 'a positive number')
    expect('warmup_steps', lambda v: v >= 0, 'zero or more')
    expect('end', lambda v: 0 <= v <= 1, 'a fraction from 0 to 1')
    expect('b1', lambda v: 0 <= v < 1, 'a number in [0, 1)')
    expect('b2', lambda v: self.name != 'adafactor', 'none, since adafactor has no such moment')
    expect('b2', lambda v: 0 <= v < 1, 'a number in [0, 1)')
    expect('eps', lambda v: v > 0, 'a positive number')
    expect('weight_decay', lambda v: v >= 0, 'zero or more')
    expect('clip_norm', lambda v: v > 0, 'a positive number, or none')


@dataclasses.dataclass(frozen=True)
class _Role:
  """What the axes of one weight are: first those of stacking, then those summed over, then the others."""

  bias: bool
  stack: int
  inputs: int
  outputs: int


def _roles(params, spec):
  """The role of every leaf of `params`, from the model's tree of `Spec`s.

  The factors of a LoRA weight take their base's: [stack, inputs, rank] and [stack, rank, outputs].
  """
  specs = {path_name(path): s for path, s in jax.tree.leaves_with_path(spec)}

  def role(path, x):
    name = path_name(path)
    base, _, factor = name.rpartition('.')
    if name in specs:
      s = specs[name]
      inputs = 0 if 'vocab' in s.axes else s.inputs
    elif base in specs and factor in ('a', 'b'):
      s = specs[base]
      inputs = s.inputs if factor == 'a' else 1
    else:
      raise ValueError(f'{name} has no Spec; the model describes {", ".join(list(specs)[:3])} ...')
    return _Role(name.endswith('bias'), s.stack, inputs, x.ndim - s.stack - inputs)

  return jax.tree.map_with_path(role, params)


def decayed(params, spec):
  """Tree of bool: which leaves weight decay acts on. Biases and vectors (norm scales, sinks) are spared."""
  return jax.tree.map(lambda r: not r.bias and r.inputs + r.outputs > 1, _roles(params, spec))


def matrices(params, spec):
  """Tree of Muon's view of each leaf as a stack of [inputs, outputs] matrices; None leaves it to Adam.

  Vectors, biases, embeddings and heads are Adam's (Jordan 2024, `Muon`).
  """

  def view(r):
    if r.bias or not r.inputs or not r.outputs:
      return None
    axes = tuple(range(r.stack, r.stack + r.inputs + r.outputs))
    return optax.contrib.MuonDimensionNumbers(axes[: r.inputs], axes[r.inputs :])

  return jax.tree.map(view, _roles(params, spec))


def _adamw(c, _):
  return optax.adam(1.0, c.b1 if c.b1 is not None else 0.9, c.b2 or 0.999, c.eps or 1e-8)


def _adafactor(c, _):
  return optax.adafactor(1.0, momentum=c.b1, eps=c.eps or 1e-30)


def _muon(c, matrices):
  # 0.2: updates as large as AdamW's, so that rates carry over (Liu et al. 2025, arXiv 2502.16982, eq. 4).
  return optax.contrib.muon(
    1.0,
    beta=c.b1 if c.b1 is not None else 0.95,
    adam_b2=c.b2 or 0.999,
    eps=c.eps or 1e-8,
    muon_weight_dimension_numbers=matrices,
    consistent_rms=0.2,
  )


RULES = {'adamw': _adamw, 'adafactor': _adafactor, 'muon': _muon}


def schedule(config: Optim, total_steps: int) -> optax.Schedule:
  """Learning rate as a function of the number of updates made.

  Linear warm-up from 0, then constant, linear or cosine decay to `end * lr` at `total_steps`, as in
  `transformers.get_cosine_schedule_with_warmup` and its siblings. Raises ValueError when the warm-up does
  not end before `total_steps`.
  """
  if config.warmup_steps >= total_steps:
    raise ValueError(f'warmup_steps={config.warmup_steps}: expected fewer than all {total_steps} steps')
  rest = total_steps - config.warmup_steps
  after = {
    'constant': lambda: optax.constant_schedule(config.lr),
    'linear': lambda: optax.linear_schedule(config.lr, config.end * config.lr, rest),
    'cosine': lambda: optax.cosine_decay_schedule(config.lr, rest, config.end),
  }[config.schedule]()
  if not config.warmup_steps:
    return after
  warm = optax.linear_schedule(0.0, config.lr, config.warmup_steps)
  return optax.join_schedules([warm, after], [config.warmup_steps])


class Rate(NamedTuple):
  """The last rate used, kept so that it can be reported, and the number of updates made."""

  count: Any  # [] int32
  rate: Any  # [] float32


def _scale_by_rate(schedule):
  def update(updates, state, params=None):
    rate = jnp.asarray(schedule(state.count), jnp.float32)
    return jax.tree.map(lambda u: rate * u, updates), Rate(state.count + 1, rate)

  return optax.GradientTransformation(lambda _: Rate(jnp.int32(0), jnp.float32(0)), update)


def optimizer(config: Optim, total_steps: int, spec) -> optax.GradientTransformation:
  """Clipping, update rule, decoupled weight decay and rate, in that order.

  `spec`: the model's tree of `core.params.Spec`, which says what each weight is; the parameters may be a part
  of the tree, and LoRA factors may stand in it.
  """
  decay = lambda params: decayed(params, spec)
  parts = [
    optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
    RULES[config.name](config, lambda params: matrices(params, spec)),
    # The rules above already point downhill, hence the sign.
    optax.add_decayed_weights(-config.weight_decay, mask=decay) if config.weight_decay else optax.identity(),
    _scale_by_rate(schedule(config, total_steps)),
  ]
  return optax.chain(*parts)


def partition(params, trainable: str):
  """`(trainable, frozen)`: two trees of the structure of `params`, each with None where the other has a leaf.

  A leaf is trainable when the regular expression `trainable` matches its whole dotted path. None is an empty
  subtree to JAX, so the frozen part gets no gradient and no optimiser state.
  Raises ValueError when nothing matches.
  """
  chosen = jax.tree.map_with_path(lambda path, _: bool(re.fullmatch(trainable, path_name(path))), params)
  if not any(jax.tree.leaves(chosen)):
    names = [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
    raise ValueError(
      f'trainable={trainable!r} matches none of the {len(names)} weights, such as {", ".join(names[:3])}'
    )
  take = lambda wanted: jax.tree.map(lambda x, c: x if c == wanted else None, params, chosen)
  return take(True), take(False)


def merge(trainable, frozen):
  """The whole tree again from `partition`'s two. Raises ValueError where both or neither hold a leaf."""
  if frozen is None:
    return trainable

  def either(path, a, b):
    if a is not None and b is not None:
      raise ValueError(f'{path_name(path)} is in the trainable and in the frozen part')
    return b if a is None else a

  return jax.tree.map_with_path(either, trainable, frozen, is_leaf=lambda x: x is None)


@struct.dataclass
class Loss:
  """What a loss function returns: sums over the items of a batch, and what they are sums over."""

  total: Any  # [] sum of weighted losses
  weight: Any  # [] sum of the weights
  metrics: dict[str, tuple[Any, Any]] = struct.field(default_factory=dict)  # name -> (sum, weight)
  carry: Any = None  # what the loss remembers for its next evaluation


@struct.dataclass
class TrainState:
  """Everything a step changes."""

  step: Any  # [] int32: batches seen
  params: Any  # the trainable part
  opt_state: Any
  carry: Any = None  # the loss's own memory, such as MPO's running reward shift


def _wide(tree):
  """Low-precision leaves as float32: moments and updates keep their digits when the weights are bfloat16."""
  low = lambda x: jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
  return jax.tree.map(lambda x: x.astype(jnp.float32) if low(x) else x, tree)


def init_state(params, tx: optax.GradientTransformation, carry: Any = None) -> TrainState:
  """The state before the first step. A moment lies where its weight lies, all else on every device."""
  make = _make(tx, carry)
  if _mesh(params) is None:
    return make(params).replace(params=params)
  places = jax.tree.map(lambda x: x.sharding, abstract_state(params, tx, carry).replace(params=None))
  return jax.jit(make, out_shardings=places)(params).replace(params=params)


def abstract_state(params, tx: optax.GradientTransformation, carry: Any = None) -> TrainState:
  """`init_state` as `jax.ShapeDtypeStruct`s with shardings, for parameters (abstract or not) on a mesh."""
  homes = {path_name(path): x for path, x in jax.tree.leaves_with_path(params)}
  everywhere = jax.sharding.NamedSharding(_mesh(params), jax.P())

  def home(path, x):
    keys = path_name(path).split('.')  # opt_state.mu.<name of a weight>
    names = ('.'.join(keys[i:]) for i in range(len(keys)))
    weight = next((homes[name] for name in names if name in homes), None)
    place = weight.sharding if weight is not None and weight.shape == x.shape else everywhere
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

  state = jax.tree.map_with_path(home, jax.eval_shape(_make(tx, carry), params))
  here = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
  return state.replace(params=jax.tree.map(here, params))


def _make(tx, carry):
  return lambda params: TrainState(jnp.int32(0), None, tx.init(_wide(params)), jax.tree.map(jnp.asarray, carry))


def _mesh(params):
  """The mesh that some leaf of `params` is spread over, or None."""
  places = (x.sharding for x in jax.tree.leaves(params))
  return next((s.mesh for s in places if isinstance(s, jax.sharding.NamedSharding)), None)


def _split(batch, parts: int):
  """[B, ...] leaves as [parts, B / parts, ...]. Strided, so that each part stays spread over the devices."""

  def split(path, x):
    if x.shape[0] % parts:
      raise ValueError(f'batch leaf {path_name(path)} has {x.shape[0]} rows: expected a multiple of accumulate={parts}')
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

  return jax.tree.map_with_path(split, batch)


def _gradient(loss_fn, params, frozen, batch, key, carry, accumulate):
  """Gradient of the summed loss (float32 tree), the summed `Loss`, and what the last evaluation carries on."""

  def one(carry, batch, key):
    def total(params):
      loss = loss_fn(merge(params, frozen), batch, key, *(() if carry is None else (carry,)))
      sums = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), loss.replace(carry=None))
      return sums.total, (sums, loss.carry)

    (_, (loss, carry)), grads = jax.value_and_grad(total, has_aux=True)(params)
    return carry, (_wide(grads), loss)

  if accumulate == 1:
    carry, (grads, loss) = one(carry, batch, key)
    return grads, loss, carry

  def body(sums, part):
    i, batch = part
    carry, new = one(sums[0], batch, jax.random.fold_in(key, i))
    return (carry, jax.tree.map(jnp.add, sums[1], new)), None

  parts = (jnp.arange(accumulate), _split(batch, accumulate))
  _, shapes = jax.eval_shape(one, carry, jax.tree.map(lambda x: x[0], parts[1]), key)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  (carry, (grads, loss)), _ = jax.lax.scan(body, (carry, zeros), parts)
  return grads, loss, carry


def _mean(total, weight):
  return jnp.where(weight == 0, 0.0, total / jnp.where(weight == 0, 1, weight))


def make_step(
  loss_fn: Callable[..., Loss], tx: optax.GradientTransformation, *, accumulate: int = 1, places: Any = None
) -> Callable:
  """A jitted `step(state, frozen, batch, key) -> (state, metrics)`; `state` is donated.

  `loss_fn(params, batch, key) -> Loss` sees the whole parameter tree. The step minimises Σ total / Σ weight
  over the whole batch, in `accumulate` micro-batches (a scan over a split of the leading axis of every batch
  leaf), whose number changes nothing but memory. `frozen` may be None. `places`: the state's tree of
  shardings; without it XLA chooses where the new state lies, not always where the old one was.

  If `state.carry` is not None the loss is `loss_fn(params, batch, key, carry)` and returns the next one, of the same
  structure, in `Loss.carry`: each micro-batch passes it to the one after it, no gradient flows through it, and the
  state keeps the last.

  metrics: loss, weight, grad_norm, lr (if `tx` is from `optimizer`), skipped, and the loss's own as means.
  A batch of weight 0, or whose gradient is not finite, leaves parameters, optimiser and carry as they were and
  reports skipped = 1.
  """
  if accumulate < 1:
    raise ValueError(f'accumulate={accumulate}: expected 1 or more')

  def step(state, frozen, batch, key):
    grads, loss, carry = _gradient(loss_fn, state.params, frozen, batch, key, state.carry, accumulate)
    grads = jax.tree.map(lambda g: _mean(g, loss.weight), grads)
    norm = optax.global_norm(grads)
    good = jnp.isfinite(norm) & (loss.weight != 0)
    updates, opt_state = tx.update(grads, state.opt_state, _wide(state.params))
    params = optax.apply_updates(state.params, updates)
    keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
    opt_state = keep(opt_state, state.opt_state)
    carry = keep(carry, state.carry)
    metrics = {name: _mean(*pair) for name, pair in loss.metrics.items()}
    metrics |= {
      'loss': _mean(loss.total, loss.weight),
      'weight': loss.weight,
      'grad_norm': norm,
      'skipped': 1 - good.astype(jnp.int32),
    }
    rate = optax.tree.get(opt_state, 'Rate')
    if rate is not None:
      metrics['lr'] = rate.rate
    return TrainState(state.step + 1, keep(params, state.params), opt_state, carry), metrics

  return jax.jit(step, donate_argnums=0, out_shardings=(places, None))
