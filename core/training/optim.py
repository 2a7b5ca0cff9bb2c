"""Optimisers and their schedules by name, over the roles that a model's `Spec`s give its weights."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from core.launch.fields import field
from core.params import path_name


@dataclasses.dataclass(frozen=True)
class Optim:
  """An optimiser and its schedule. None means the value usual for that optimiser."""

  name: Literal['adamw', 'adafactor', 'muon'] = field('adamw', 'update rule')
  lr: float = field(3e-4, 'peak learning rate')
  schedule: Literal['constant', 'linear', 'cosine'] = field('cosine', 'shape of the decay after warm-up')
  warmup_steps: int = field(0, 'updates over which the rate rises linearly from 0 to lr; at most all but the last')
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
  """The axes of one weight: those of stacking, then those summed over, then the others."""

  bias: bool
  constant: bool
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
    outputs = x.ndim - s.stack - inputs
    return _Role(bias=name.endswith('bias'), constant=s.constant, stack=s.stack, inputs=inputs, outputs=outputs)

  return jax.tree.map_with_path(role, params)


def decayed(params, spec):
  """Tree of bool: the leaves with weight decay: all but biases, vectors (norm scales, sinks) and constants."""

  def has_decay(role: _Role) -> bool:
    return not role.bias and not role.constant and role.inputs + role.outputs > 1

  return jax.tree.map(has_decay, _roles(params, spec))


def matrices(params, spec):
  """Tree of Muon's view of each leaf as a stack of [inputs, outputs] matrices; None for leaves that Adam updates.

  Adam updates vectors, biases, embeddings and heads (Jordan 2024, `Muon`).
  """

  def view(role: _Role):
    if role.bias or not role.inputs or not role.outputs:
      return None
    first_output = role.stack + role.inputs
    inputs = tuple(range(role.stack, first_output))
    outputs = tuple(range(first_output, first_output + role.outputs))
    return optax.contrib.MuonDimensionNumbers(inputs, outputs)

  return jax.tree.map(view, _roles(params, spec))


def _adamw(c, _):
  b1 = 0.9 if c.b1 is None else c.b1
  return optax.adam(1.0, b1, c.b2 or 0.999, c.eps or 1e-8)


def _adafactor(c, _):
  return optax.adafactor(1.0, momentum=c.b1, eps=c.eps or 1e-30)


def _muon(c, matrices):
  # 0.2 makes updates as large as AdamW's, so that both take the same rates (Liu et al. 2025, arXiv 2502.16982, eq. 4).
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
  """Learning rate as a function of the number of past updates.

  Linear warm-up from 0, then constant, linear or cosine decay to `end * lr` at `total_steps`, as in
  `transformers.get_cosine_schedule_with_warmup` and similar schedules. A run shorter than its warm-up, such as a short
  trial, warms up until its last update.
  """
  warmup = max(0, min(config.warmup_steps, total_steps - 1))
  rest = total_steps - warmup
  after = {
    'constant': lambda: optax.constant_schedule(config.lr),
    'linear': lambda: optax.linear_schedule(config.lr, config.end * config.lr, rest),
    'cosine': lambda: optax.cosine_decay_schedule(config.lr, rest, config.end),
  }[config.schedule]()
  if not warmup:
    return after
  warm = optax.linear_schedule(0.0, config.lr, warmup)
  return optax.join_schedules([warm, after], [warmup])


class Rate(NamedTuple):
  """The number of past updates, and the last rate, for reports."""

  count: Any  # [] int32
  rate: Any  # [] float32


def _scale_by_rate(schedule):
  def update(updates, state, params=None):
    rate = jnp.asarray(schedule(state.count), jnp.float32)
    return jax.tree.map(lambda u: rate * u, updates), Rate(state.count + 1, rate)

  return optax.GradientTransformation(lambda _: Rate(jnp.int32(0), jnp.float32(0)), update)


def optimizer(config: Optim, total_steps: int, spec) -> optax.GradientTransformation:
  """Clipping, update rule, decoupled weight decay and rate, in that order.

  `spec`: the model's tree of `core.params.Spec`, which describes each weight; the parameters may be a part of the tree,
  with LoRA factors in place of weights.
  """
  decay = lambda params: decayed(params, spec)
  parts = [
    optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
    RULES[config.name](config, lambda params: matrices(params, spec)),
    # The updates of the rules already point downhill, hence the minus sign.
    optax.add_decayed_weights(-config.weight_decay, mask=decay) if config.weight_decay else optax.identity(),
    _scale_by_rate(schedule(config, total_steps)),
  ]
  return optax.chain(*parts)
