"""The loop around a pure step: checkpoints, exact resumption, preemption.

    with Run(workdir, config) as run:
      state = loop(run, state, advance, steps, host={'data': iterator})

Killed at any moment and started again with the same command, a run ends with the same metrics.jsonl and the
same parameters, bit for bit, as one that was never touched: a checkpoint holds the device state and the host
state of one step, becomes visible by one rename, and only after the metrics up to that step are on the disk.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import pathlib
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from core.training import record
from core.training.host_state import HostState, Snapshot, Stateful


def _plain(config) -> dict:
  """A config as nested dictionaries, as JSON gives them back."""
  return json.loads(json.dumps(dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config))


def differences(old, new, prefix='') -> list[str]:
  """What differs between two nested dictionaries: 'optim.lr: 0.1, now 0.2'."""
  if not (isinstance(old, dict) and isinstance(new, dict)):
    if old == new:
      return []
    return [f'{prefix}: {old!r}, now {new!r}']
  found = []
  for key in sorted(old.keys() | new.keys()):
    name = key
    if prefix:
      name = f'{prefix}.{key}'
    if key not in old or key not in new:
      found.append(f'{name}: only {"now" if key in new else "before"}')
    else:
      found += differences(old[key], new[key], name)
  return found


@functools.cache
def _ballot():
  """For a vote of all processes: the sharding of one number a device, and their maximum on every device."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('all',))
  apart, everywhere = (jax.NamedSharding(mesh, spec) for spec in (jax.P('all'), jax.P()))
  return apart, jax.jit(lambda votes: votes.max(), out_shardings=everywhere)


class Run:
  """A run's folder and everything that must be opened and closed around its loop.

  workdir      local or shared folder: config.json, metrics.jsonl, events/, checkpoints/
  config       frozen dataclass or dictionary; kept in config.json
  every        steps between checkpoints; the last step is always saved
  keep         how many checkpoints stay
  checkpoints  another place for them, such as a gs:// path
  show         metrics shown in the progress bar

  Entering raises OSError if the folder cannot be written, and ValueError if it holds another config's run.
  """

  def __init__(
    self,
    workdir,
    config,
    *,
    every: int = 100,
    keep: int = 2,
    checkpoints: str | None = None,
    show: tuple[str, ...] = ('loss',),
  ):
    if every < 1 or keep < 1:
      raise ValueError(f'every={every}, keep={keep}: expected 1 or more of each')
    self.workdir = pathlib.Path(workdir).absolute()
    self.every = every
    self._config = _plain(config)
    self._keep = keep
    self._show = show
    self._checkpoints = checkpoints or self.workdir / 'checkpoints'
    self._signal = 0  # number of the signal that asked this process to stop
    self._recorder = None
    self._pending = None  # (step, metrics, vote) not yet fetched from the devices

  def __enter__(self):
    self._claim()
    options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, cleanup_tmp_directories=True)
    handlers = {'state': ocp.StandardCheckpointHandler(), 'host': grain.checkpoint.CheckpointHandler()}
    self._manager = ocp.CheckpointManager(self._checkpoints, options=options, item_handlers=handlers)
    return self

  def __exit__(self, *_):
    try:
      if jax.process_count() == 1:  # of several, one that failed would be waited for
        self._flush()
      self._manager.close()  # waits for the save under way
    finally:
      if self._recorder:
        self._recorder.close()

  @contextlib.contextmanager
  def listening(self):
    """Within it the first SIGTERM or SIGINT is only noted; a second one does what it always did."""
    if threading.current_thread() is not threading.main_thread():
      yield  # Python delivers signals to the main thread only
      return

    def notice(number, _):
      self._signal = number
      signal.signal(number, old[number])

    old = {number: signal.signal(number, notice) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
      yield
    finally:
      for number, handler in old.items():
        signal.signal(number, handler)

  def _claim(self):
    """Proves that the folder can be written and is ours, before anything expensive happens."""
    probe = self.workdir / f'.probe-{jax.process_index()}'
    try:
      self.workdir.mkdir(parents=True, exist_ok=True)
      with open(probe, 'wb') as f:
        f.write(bytes(1 << 16))
        f.flush()
        os.fsync(f.fileno())
      probe.unlink()
    except OSError as error:
      raise OSError(error.errno, f'workdir cannot be written: {error.strerror}', str(self.workdir)) from error
    path = self.workdir / 'config.json'
    if path.exists():
      changed = differences(json.loads(path.read_text(encoding='utf-8')), self._config)
      if changed:
        raise ValueError(
          f'{path} is of a run with another config ({"; ".join(changed)}): '
          'continue with the old values, or give another workdir'
        )
    elif jax.process_index() == 0:
      record.replace(path, json.dumps(self._config, indent=2) + '\n')

  def restore(self, state, host: Mapping[str, Stateful], steps: int):
    """`(state, step)` of the last checkpoint, on the shardings of `state`; or `(state, 0)` if there is none.

    Sets the state of `host`, cuts the records back to that step, and opens them. Raises ValueError naming
    the leaves in which the checkpoint differs from `state`, and OSError if the disk cannot hold one.
    """
    self._check_room(state)
    start = self._manager.latest_step()
    if start is not None:
      self._check_leaves(start, state)
      place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, 'sharding', None))
      items = {'state': ocp.args.StandardRestore(jax.tree.map(place, state))}
      if host:
        self._check_processes(start)
        items['host'] = grain.checkpoint.CheckpointRestore(HostState(host))
      state = self._manager.restore(start, args=ocp.args.Composite(**items)).state
      logging.info('resuming after step %d of %s', start, self.workdir)
    if jax.process_index() == 0:
      self._recorder = record.Recorder(self.workdir, start or 0, steps, self._show)
    return state, start or 0

  def _check_room(self, state):
    if '://' in str(self._checkpoints):
      return
    need = sum(
      shard.data.nbytes
      for x in jax.tree.leaves(state)
      if isinstance(x, jax.Array)
      for shard in x.addressable_shards
      if shard.replica_id == 0
    )
    free = shutil.disk_usage(self.workdir).free
    if free < need:
      text = f'a checkpoint takes {need:,} bytes and {free:,} are free'
      raise OSError(errno.ENOSPC, text, str(self.workdir))

  def _check_leaves(self, step, state):
    def describe(x):
      if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.eval_shape(jax.random.key_data, x)
      return f'{x.dtype}{list(x.shape)}'

    saved = self._manager.item_metadata(step)['state']
    old, new = (
      {
        jax.tree_util.keystr(path, simple=True, separator='.'): describe(x)
        for path, x in jax.tree.leaves_with_path(tree)
      }
      for tree in (saved, state)
    )
    changed = differences(old, new)
    if changed:
      more = ''
      if len(changed) > 8:
        more = f'; and {len(changed) - 8} more'
      raise ValueError(
        f'checkpoint {step} in {self._checkpoints} is of another model or optimiser: {"; ".join(changed[:8])}{more}'
      )

  def _check_processes(self, step):
    """Host state is one file a process, which another number of processes cannot share out."""
    saved = len(list((self._manager.directory / str(step) / 'host').glob('process_*.json')))
    if saved != jax.process_count():
      raise ValueError(
        f'checkpoint {step} in {self._checkpoints} has the host state of {saved} processes: '
        f'expected {jax.process_count()}'
      )

  def record(self, step: int, metrics: Mapping[str, Any]) -> int:
    """Takes note of a step just launched and writes down the one before it, which it waits for.

    Returns the signal that all processes agree to stop for, or 0. Among several the vote travels with the
    metrics, one step behind, so it never makes the devices wait.
    """
    apart, highest = _ballot()
    alone = jax.process_count() == 1
    own = np.full(jax.local_device_count(), self._signal, np.int32)
    vote = self._signal if alone else highest(jax.make_array_from_process_local_data(apart, own))
    before = self._pending
    self._pending = (step, metrics, vote)
    agreed = self._fetch(before)
    if alone:
      return vote
    return agreed

  def _flush(self) -> None:
    """Writes down the metrics of the last step, which an exception left pending."""
    pending = self._pending
    self._pending = None
    try:
      self._fetch(pending)
    except Exception:  # the step itself may be what failed
      logging.warning('the metrics of the last step are lost', exc_info=True)

  def _fetch(self, entry) -> int:
    if entry is None:
      return 0
    step, metrics, vote = jax.device_get(entry)
    if self._recorder:
      self._recorder.write(step, metrics)
    return int(vote)

  def save(self, step: int, state, host: Mapping[str, Stateful]) -> int:
    """Saves in the background; the state may be donated as soon as this returns.

    All metrics are written down first, so the vote of the last step is known too: returned as by `record`.
    """
    return self._save(step, state, HostState(host))

  def _save(self, step: int, state, host: HostState | Snapshot) -> int:
    agreed = self._fetch(self._pending)
    self._pending = None
    if self._recorder:
      self._recorder.sync()
    items = {'state': ocp.args.StandardSave(state), 'host': grain.checkpoint.CheckpointSave(host)}
    self._manager.save(step, force=True, args=ocp.args.Composite(**items))
    return agreed

  def rescue(self, step: int, state, host: bytes) -> None:
    """Saves the state after step `step`, which an exception in the next one would lose; never raises.

    host: the host state as it was then (`HostState.get_state`). Of several processes one that failed would be waited
    for, and a step that failed after it has donated `state` has destroyed it: then nothing is saved.
    """
    self._manager.wait_until_finished()
    if step in (0, self._manager.latest_step()):
      return
    arrays = [x for x in jax.tree.leaves(state) if isinstance(x, jax.Array)]
    taken = any(x.is_deleted() for x in arrays)
    if taken or jax.process_count() > 1:
      logging.warning('the steps since the last checkpoint are lost; it is of step %s', self._manager.latest_step())
      return
    try:
      self._save(step, state, Snapshot(host))
      self._manager.wait_until_finished()
      logging.warning('saved step %d, the last one before the exception, in %s', step, self.workdir)
    except Exception:  # what is raised in the end is the exception of the step
      logging.warning('step %d cannot be saved', step, exc_info=True)

  def leave(self, step: int, number: int) -> None:
    """Waits for the save under way and ends the program as the signal would have: 143 for SIGTERM."""
    self._manager.wait_until_finished()
    logging.warning(
      '%s: stopped after step %d, saved in %s; the same command resumes from there',
      signal.Signals(number).name,
      step,
      self.workdir,
    )
    sys.exit(128 + number)


def loop(
  run: Run,
  state,
  advance: Callable[[Any, int], tuple[Any, Mapping]],
  steps: int,
  *,
  host: Mapping[str, Stateful] | None = None,
  finished: Callable[[], bool] = lambda: False,
):
  """Calls `advance` until `steps` have been made, in this and earlier lives; returns the last state.

  `advance(state, i) -> (state, metrics)` makes step i + 1 (a batch and an update, or a rollout and several)
  and may donate `state`; it must depend on nothing but `state`, `i` and `host`. `metrics` are single numbers,
  on device; one called `tokens` gives the throughput. `host`: named host state, saved with the arrays. `finished()`,
  asked after each step, ends the loop early; it must depend on `host` alone, so that a resumed run ends there too.
  On SIGTERM or SIGINT the step under way is finished and saved, then SystemExit. An exception in `advance` saves the
  state before that step where it can (`Run.rescue`), so that no finished step is lost.
  """
  host = host or {}
  state, start = run.restore(state, host, steps)
  with run.listening():
    for i in range(start, steps):
      if finished():
        break
      before = HostState(host).get_state()
      try:
        state, metrics = advance(state, i)
      except Exception:
        run.rescue(i, state, before)
        raise
      stop = run.record(i + 1, metrics)
      if stop or (i + 1) % run.every == 0 or i + 1 == steps or finished():
        stop = max(stop, run.save(i + 1, state, host))
      if stop:
        run.leave(i + 1, stop)
  return state
