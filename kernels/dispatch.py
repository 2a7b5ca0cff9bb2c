"""One table of implementations for each operation: which platforms they serve, and what they cannot do.

An operation holds a `Table`: name → `Implementation`. `call` runs a named one, or leaves the choice to the platform
that the program is lowered for, which need not be this host's (compiling ahead of time for a TPU on a CPU machine).
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping

import jax

SWITCH = 'ESPALIER_KERNELS'  # environment variable; 'xla' makes the default implementation that of every platform


def _refuse_nothing(*args, **static) -> None:
  return None


@dataclasses.dataclass(frozen=True)
class Implementation:
  """One way to compute an operation.

  run: called as run(*arrays, **static). platform: the platform ('tpu', 'cuda') that takes this implementation when
  none is named; None for those used only by name or as the default. refuse: same arguments as `run`; returns why this
  implementation cannot compute them, or None. decline: same arguments; returns why it is not faster than the default,
  so that it is taken by name only, or None.
  """

  run: Callable
  platform: str | None = None
  refuse: Callable[..., str | None] = _refuse_nothing
  decline: Callable[..., str | None] = _refuse_nothing

  def against(self, arrays: tuple, static: dict) -> str | None:
    """Why this implementation is not the one of its platform for these arguments, or None."""
    if _kernels_are_off():
      return f'{SWITCH}=xla'
    return self.refuse(*arrays, **static) or self.decline(*arrays, **static)


@dataclasses.dataclass(frozen=True)
class Table:
  """The implementations of one operation, by name."""

  operation: str
  implementations: Mapping[str, Implementation]

  def call(self, *arrays, implementation: str | None, default: str, **static):
    """Runs `implementation`; None takes each platform's own where it accepts the arguments, else `default`.

    Raises ValueError for an unknown name, NotImplementedError for a named implementation that refuses, saying why.
    """
    if implementation is not None:
      return self._named(implementation, arrays, static)
    run_default = functools.partial(self.implementations[default].run, **static)
    kernels = {
      entry.platform: functools.partial(entry.run, **static)
      for entry in self.implementations.values()
      if entry.platform is not None and entry.against(arrays, static) is None
    }
    if not kernels:
      return run_default(*arrays)
    return jax.lax.platform_dependent(*arrays, **kernels, default=run_default)

  def choices(self, *arrays, default: str, **static) -> dict[str, str]:
    """What each platform takes when no implementation is named: a name, with the reason where its own refuses."""
    chosen = {'default': default}
    for name, entry in self.implementations.items():
      if entry.platform is None:
        continue
      reason = entry.against(arrays, static)
      if reason is None:
        chosen[entry.platform] = name
      else:
        chosen.setdefault(entry.platform, f'{default}: {reason}')
    return chosen

  def _named(self, name: str, arrays: tuple, static: dict):
    if name not in self.implementations:
      names = sorted(self.implementations)
      raise ValueError(f'{self.operation}: implementation {name!r} is unknown; expected one of {names}')
    entry = self.implementations[name]
    reason = entry.refuse(*arrays, **static)
    if reason is not None:
      raise NotImplementedError(f'{self.operation}: {reason}')
    return entry.run(*arrays, **static)


def _kernels_are_off() -> bool:
  """Whether the user asks for no kernel. Raises ValueError for a value other than 'xla'."""
  value = os.environ.get(SWITCH, '')
  if value not in ('', 'xla'):
    raise ValueError(f"{SWITCH}={value!r}: expected 'xla', or unset")
  return value == 'xla'
