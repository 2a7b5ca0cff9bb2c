"""The records of a run: metrics.jsonl, TensorBoard events, a progress bar; Weights & Biases where a project is named.

metrics.jsonl holds only values that the computation determines, so two runs of one config can be compared byte for
byte, even if one was interrupted. Times and rates go to TensorBoard and the bar.
"""

import json
import math
import os
import pathlib
import sys
import time

import jax.numpy as jnp
import numpy as np
from absl import logging
from tqdm import tqdm

from core.training.tracking import Tracker


def replace(path: pathlib.Path, text: str) -> None:
  """Replaces a text file atomically: readers see either the old or the new content, also after a crash."""
  draft = path.with_name(path.name + '.new')
  with open(draft, 'w', encoding='utf-8') as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())
  os.replace(draft, path)


def scalar(name: str, value) -> float | int | None:
  """A metric as JSON: the shortest decimal that reads back as the same float; None for NaN and infinities.

  Raises ValueError if it is not a single number.
  """
  value = np.asarray(value)
  if value.shape or not jnp.issubdtype(value.dtype, np.number):
    raise ValueError(f'metric {name!r} is {value.dtype}{list(value.shape)}: expected a single number')
  if np.issubdtype(value.dtype, np.integer):
    return int(value)
  if value.dtype.itemsize < 4:
    value = value.astype(np.float32)
  number = float(str(value))
  if math.isfinite(number):
    return number
  return None


def cut(path: pathlib.Path, step: int) -> None:
  """Removes from a metrics file the steps after `step`, and an incomplete last line left by a crash.

  Raises ValueError naming the line if one before the last is not a metrics line.
  """
  if not path.exists():
    return
  kept = []
  lines = path.read_text(encoding='utf-8', errors='replace').splitlines(keepends=True)
  for number, line in enumerate(lines, 1):
    try:
      is_later = json.loads(line)['step'] > step
    except (ValueError, KeyError, TypeError) as error:
      if number < len(lines):
        raise ValueError(f'{path}:{number} is not a metrics line: {line[:60]!r}') from error
      break
    is_complete = line.endswith('\n')
    if is_later or not is_complete:
      break
    kept.append(line)
  if len(kept) < len(lines):
    replace(path, ''.join(kept))


class Recorder:
  """Writes one line and one set of events a step, from step `start`, at which the run resumes."""

  def __init__(self, workdir: pathlib.Path, start: int, steps: int, show: tuple[str, ...]):
    from tensorboardX import SummaryWriter  # a second of imports that no other process needs

    path = workdir / 'metrics.jsonl'
    cut(path, start)
    self._lines = open(path, 'a', encoding='utf-8')  # noqa: SIM115 (closed by close)
    self._events = SummaryWriter(str(workdir / 'events'), purge_step=start + 1)
    self._tracker = Tracker(workdir)
    self._bar = tqdm(total=steps, initial=start, unit='step', disable=not sys.stderr.isatty())
    self._steps = steps
    self._show = show
    self._began = self._last = self._logged = time.monotonic()
    self._first: int | None = None  # the step that compiles, of which no rate follows

  def write(self, step: int, metrics: dict) -> None:
    """`metrics`: name -> single number, on the host."""
    values = {name: scalar(name, metrics[name]) for name in sorted(metrics)}
    self._lines.write(json.dumps({'step': step} | values, allow_nan=False) + '\n')
    self._lines.flush()
    now = time.monotonic()
    rates = {'time/steps_per_second': 1 / max(now - self._last, 1e-9)}
    if values.get('tokens'):
      rates['time/tokens_per_second'] = values['tokens'] * rates['time/steps_per_second']
    for name, value in (values | rates).items():
      if value is not None:
        self._events.add_scalar(name, value, step)
    self._tracker.log(values | rates, step)
    self._last = now
    self._report(step, values, now)

  def _report(self, step, values, now):
    shown = {name: values[name] for name in self._show if name in values}
    self._bar.set_postfix(shown, refresh=False)
    self._bar.update(step - self._bar.n)
    is_due = now - self._logged > 15 or step == self._steps
    if self._bar.disable and is_due:
      self._logged = now
      logging.info('step %d of %d, %s, %s', step, self._steps, self._pace(step, now), shown)
    if self._first is None:
      self._first = step
      self._began = now

  def _pace(self, step: int, now: float) -> str:
    """Steps a second and the time left, from the second step on."""
    if self._first is None or step == self._first:
      return f'{tqdm.format_interval(now - self._began)} with its compilation'
    rate = (step - self._first) / max(now - self._began, 1e-9)
    return f'{rate:.3g} steps/s, {tqdm.format_interval((self._steps - step) / rate)} left'

  def sync(self) -> None:
    """Flushes every line written so far to disk."""
    self._lines.flush()
    os.fsync(self._lines.fileno())

  def close(self) -> None:
    self._bar.close()
    self._events.close()
    self._tracker.close()
    self._lines.close()
