"""Which implementation of an operation runs, and what a refusal says."""

import importlib
import types

import jax
import jax.numpy as jnp
import pytest

from kernels import dispatch
from kernels.dispatch import Implementation

TABLE = dispatch.Table(
  'sum',
  {
    'plain': Implementation(lambda x, *, by: x + by),
    'even': Implementation(
      lambda x, *, by: x - by, platform='cpu', refuse=lambda x, *, by: 'odd sizes' if x.size % 2 else None
    ),
  },
)


def call(size, implementation=None):
  run = jax.jit(lambda x: TABLE.call(x, implementation=implementation, default='plain', by=2))
  return float(run(jnp.zeros(size))[0])


def test_the_platform_takes_its_own_where_it_does_not_refuse():
  assert call(2) == -2
  assert call(3) == 2
  assert call(2, 'plain') == 2


def test_a_name_is_never_replaced():
  with pytest.raises(NotImplementedError, match='sum: odd sizes'):
    call(3, 'even')
  with pytest.raises(ValueError, match=r"'best' is unknown; expected one of \['even', 'plain'\]"):
    call(2, 'best')


def test_what_declines_is_taken_by_name_only():
  slower = Implementation(lambda x: x + 1, platform='cpu', decline=lambda x: 'too small' if x.size < 3 else None)
  table = dispatch.Table('sum', {'plain': Implementation(lambda x: x), 'wide': slower})
  small, large = jnp.zeros(2), jnp.zeros(3)
  assert [table.call(x, implementation=None, default='plain')[0] for x in (small, large)] == [0, 1]
  assert table.call(small, implementation='wide', default='plain')[0] == 1
  assert table.choices(small, default='plain') == {'default': 'plain', 'cpu': 'plain: too small'}


def test_one_variable_turns_kernels_off(monkeypatch):
  sizes = (jnp.zeros(2), jnp.zeros(3))
  assert [TABLE.choices(x, default='plain', by=2)['cpu'] for x in sizes] == ['even', 'plain: odd sizes']
  monkeypatch.setenv('ESPALIER_KERNELS', 'xla')
  assert call(4) == 2
  assert TABLE.choices(jnp.zeros(2), default='plain', by=2)['cpu'] == 'plain: ESPALIER_KERNELS=xla'
  monkeypatch.setenv('ESPALIER_KERNELS', 'off')
  with pytest.raises(ValueError, match="ESPALIER_KERNELS='off': expected 'xla'"):
    call(6)


def test_no_function_hides_a_package():
  assert isinstance(importlib.import_module('kernels').tree, types.ModuleType)
  assert isinstance(importlib.import_module('kernels.tree').plan, types.ModuleType)
