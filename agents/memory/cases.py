"""The case bank: what was asked, what was planned, how it ended. One sqlite file that several processes may share.

Successes and failures are both kept (arXiv 2508.16153). A write is on the disk, and visible to the next read
of any process, before `add` returns.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from agents.memory.encoders import Encoder, HashEncoder
from agents.memory.index import Index
from core.text import clean

PREFILTER = 256  # nearest cases that a scorer looks at
_SCHEMA = """
CREATE TABLE IF NOT EXISTS cases (
  id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, run TEXT NOT NULL, task TEXT NOT NULL, plan TEXT NOT NULL,
  reward REAL NOT NULL, quarantined INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL, updated REAL NOT NULL,
  revision INTEGER NOT NULL, UNIQUE (key, run));
CREATE TABLE IF NOT EXISTS uses (
  id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, run TEXT NOT NULL, query TEXT NOT NULL,
  case_id INTEGER NOT NULL REFERENCES cases (id) ON DELETE CASCADE, reward REAL NOT NULL, selector TEXT NOT NULL,
  UNIQUE (key, run, case_id));
CREATE TABLE IF NOT EXISTS vectors (
  encoder TEXT NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (encoder, text)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter (revision INTEGER NOT NULL);
INSERT INTO counter SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM counter);
"""
_FIELDS = 'id, key, run, task, plan, reward, quarantined, created, updated'


@dataclasses.dataclass(frozen=True)
class Case:
  """One finished task. `key` names the task, `run` the run and iteration it came from; `plan` is text as written."""

  id: int
  key: str
  run: str
  task: str
  plan: str
  reward: float
  quarantined: bool
  created: float  # seconds since 1970
  updated: float

  @property
  def positive(self) -> bool:
    """Whether the task ended well."""
    return self.reward >= 0.5


@dataclasses.dataclass(frozen=True)
class Found:
  """A case and what it was chosen by: a cosine, or a scorer's value."""

  case: Case
  score: float


@dataclasses.dataclass(frozen=True)
class Use:
  """One retrieved case and the outcome of the episode that used it. A row of the selector's training data."""

  id: int
  key: str
  run: str
  query: str
  case: Case
  reward: float
  selector: str


Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(query [D], cases [N, D]) → scores [N]; the cases are encoded as `case_text`."""


def task_key(task: str) -> str:
  """The key of a task without an id: a hash of its words, without blanks and case."""
  return hashlib.sha256(' '.join(task.lower().split()).encode()).hexdigest()[:16]


def case_text(case: Case) -> str:
  """A case as a selector reads it: question and plan, never its own outcome."""
  return f'[CASE]\n{case.task}' + (f'\n[PLAN]\n{case.plan}' if case.plan else '')


class CaseBank:
  """Cases in the sqlite file `path` (':memory:' for none), found by the encoder's vectors. Safe across threads.

  Raises ValueError when the file is not a case bank.
  """

  def __init__(self, path: str | os.PathLike, encoder: Encoder | None = None):
    self.path = str(path)
    self.encoder = encoder or HashEncoder()
    self._lock = threading.RLock()
    try:
      if self.path != ':memory:':
        Path(path).parent.mkdir(parents=True, exist_ok=True)
      self._db = sqlite3.connect(self.path, timeout=30.0, check_same_thread=False, isolation_level=None)
      self._db.executescript('PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;' + _SCHEMA)
    except sqlite3.DatabaseError as error:
      raise ValueError(f'{self.path}: not a case bank ({error})') from None
    self._index = Index(self.encoder.width)
    self._seen = {}
    self._revision = -1

  # Writing.

  def add(self, task: str, plan: str, reward: float, *, key: str = '', run: str = '') -> Case:
    """Stores one finished task; writing (key, run) again replaces what it said, under the same id."""
    task = clean(task)
    plan = clean(plan)
    reward = _reward(reward)
    if not task.strip():
      raise ValueError(f'task {task!r}: expected some text')
    key = clean(key) or task_key(task)
    now = time.time()
    with self._writing() as revision:
      (number,) = self._db.execute(
        'INSERT INTO cases (key, run, task, plan, reward, created, updated, revision) '
        'VALUES (?, ?, ?, ?, ?, ?, ?, ?) '
        'ON CONFLICT (key, run) DO UPDATE SET task=excluded.task, plan=excluded.plan, reward=excluded.reward, '
        'updated=excluded.updated, revision=excluded.revision RETURNING id',
        (key, clean(run), task, plan, reward, now, now, revision),
      ).fetchone()
    return self.get(number)

  def update(
    self,
    number: int,
    *,
    task: str | None = None,
    plan: str | None = None,
    reward: float | None = None,
    quarantined: bool | None = None,
  ) -> Case:
    """Edits a case. Quarantined ones are kept but never found. Raises KeyError for an unknown id."""
    changes = {
      'task': task,
      'plan': plan,
      'reward': None if reward is None else _reward(reward),
      'quarantined': quarantined,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    changes = {name: clean(value) if isinstance(value, str) else value for name, value in given.items()}
    with self._writing() as revision:
      columns = ''.join(f'{name}=?, ' for name in changes)
      done = self._db.execute(
        f'UPDATE cases SET {columns}updated=?, revision=? WHERE id=?',
        (*changes.values(), time.time(), revision, number),
      )
      if not done.rowcount:
        raise KeyError(f'case {number}: there is none in {self.path}')
    return self.get(number)

  def delete(self, number: int) -> None:
    """Removes a case and the record of its uses. Raises KeyError for an unknown id."""
    with self._writing():
      if not self._db.execute('DELETE FROM cases WHERE id=?', (number,)).rowcount:
        raise KeyError(f'case {number}: there is none in {self.path}')

  def add_uses(
    self, query: str, cases: Sequence[Case], reward: float, *, key: str = '', run: str = '', selector: str = ''
  ) -> None:
    """Records the outcome of an episode that used `cases`; a second write of (key, run, case) replaces the outcome."""
    query = clean(query)
    rows = [(clean(key) or task_key(query), clean(run), query, c.id, _reward(reward), selector) for c in cases]
    with self._writing():
      self._db.executemany(
        'INSERT INTO uses (key, run, query, case_id, reward, selector) VALUES (?, ?, ?, ?, ?, ?) '
        'ON CONFLICT DO UPDATE SET reward=excluded.reward, selector=excluded.selector',
        rows,
      )

  # Reading.

  def get(self, number: int) -> Case:
    """The case of an id. Raises KeyError for an unknown one."""
    with self._lock:
      row = self._db.execute(f'SELECT {_FIELDS} FROM cases WHERE id=?', (number,)).fetchone()
    if row is None:
      raise KeyError(f'case {number}: there is none in {self.path}')
    return _case(row)

  def cases(self) -> list[Case]:
    """Every case, quarantined ones too, in the order they were first written."""
    with self._lock:
      return [_case(row) for row in self._db.execute(f'SELECT {_FIELDS} FROM cases ORDER BY id')]

  def uses(self, after: int = 0) -> list[Use]:
    """Recorded uses with ids past `after`, in order, but those of a task's own case, which give its answer away."""
    fields = ', '.join(f'cases.{name}' for name in _FIELDS.split(', '))
    with self._lock:
      rows = self._db.execute(
        f'SELECT uses.id, uses.key, uses.run, uses.query, uses.reward, uses.selector, {fields} FROM uses JOIN cases '
        'ON cases.id = uses.case_id WHERE uses.key != cases.key AND uses.id > ? ORDER BY uses.id',
        (after,),
      ).fetchall()
    return [Use(*row[:4], _case(row[6:]), *row[4:6]) for row in rows]

  def __len__(self) -> int:
    with self._lock:
      return self._db.execute('SELECT count(*) FROM cases').fetchone()[0]

  def search(
    self,
    query: str,
    k: int = 4,
    *,
    scorer: Scorer | None = None,
    exclude: str = '',
    where: Callable[[Case], bool] = lambda case: True,
    prefilter: int = PREFILTER,
  ) -> list[Found]:
    """The k best cases for a task, best first; equals in the order they were written.

    By the cosine of the tasks' vectors, or, with a scorer, by its value among the `prefilter` nearest. exclude: the
    key of a task whose own cases are left out (in evaluation: the query's).
    """
    if k <= 0:
      return []
    allowed = lambda case: not case.quarantined and case.key != exclude and where(case)
    with self._lock:
      self._refresh()
      vector = self.vectors([query])[0]
      near = self._index.ranked(vector, lambda i: allowed(self._seen[i][1]), k if scorer is None else max(k, prefilter))
      found = [Found(self._seen[i][1], score) for i, score in near]
      if scorer is None or not found:
        return found
      scores = scorer(vector, self.vectors([case_text(f.case) for f in found]))
    by_score = lambda pair: (-pair[1], pair[0].case.id)
    ranked = sorted(zip(found, scores), key=by_score)[:k]
    return [Found(f.case, float(score)) for f, score in ranked]

  def vectors(self, texts: Sequence[str]) -> np.ndarray:
    """float32 [texts, D] of the bank's encoder; each text is encoded once and kept."""
    texts = [clean(text) for text in texts]
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    with self._lock:
      known = {}
      for h in dict.fromkeys(hashes):
        row = self._db.execute('SELECT vector FROM vectors WHERE encoder=? AND text=?', (self.encoder.id, h)).fetchone()
        if row:
          known[h] = np.frombuffer(row[0], '<f4')
      new = {h: text for h, text in zip(hashes, texts) if h not in known}
      if new:
        fresh = dict(zip(new, self.encoder(list(new.values()))))
        with self._transaction():
          self._db.executemany(
            'INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)',
            [(self.encoder.id, h, np.asarray(v, '<f4').tobytes()) for h, v in fresh.items()],
          )
        known |= fresh
    if texts:
      return np.stack([known[h] for h in hashes])
    return np.zeros((0, self.encoder.width), np.float32)

  # Copies.

  def digest(self) -> str:
    """Sixteen hexadecimal digits that stand for everything that reading depends on, clocks aside."""
    content = [[c.id, c.key, c.run, c.task, c.plan, c.reward, c.quarantined] for c in self.cases()]
    return hashlib.sha256(json.dumps([self.encoder.id, content]).encode()).hexdigest()[:16]

  def snapshot(self, path: str | os.PathLike) -> str:
    """Copies the bank as it is now to a new file, itself a bank; returns its digest.

    Raises FileExistsError rather than write over anything.
    """
    if Path(path).exists():
      raise FileExistsError(f'{path}: a snapshot is never written over another file')
    with self._lock:
      draft = f'{path}.part'
      with contextlib.closing(sqlite3.connect(draft)) as copy:
        self._db.backup(copy)
      os.replace(draft, path)
      return self.digest()

  def close(self) -> None:
    self._db.close()

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()

  @contextlib.contextmanager
  def _transaction(self) -> Iterator[None]:
    with self._lock:
      self._db.execute('BEGIN IMMEDIATE')
      try:
        yield
      except BaseException:
        self._db.execute('ROLLBACK')
        raise
      self._db.execute('COMMIT')

  @contextlib.contextmanager
  def _writing(self) -> Iterator[int]:
    """A transaction and the revision that it makes."""
    with self._transaction():
      yield self._db.execute('UPDATE counter SET revision = revision + 1 RETURNING revision').fetchone()[0]

  def _refresh(self) -> None:
    """Brings the index up to the file, which other processes may have changed."""
    self._db.execute('BEGIN')  # one view of the file, whoever writes meanwhile
    try:
      (revision,) = self._db.execute('SELECT revision FROM counter').fetchone()
      if revision == self._revision:
        return
      there = dict(self._db.execute('SELECT id, revision FROM cases').fetchall())
      changed = sorted(n for n, r in there.items() if self._seen.get(n, (None,))[0] != r)
      cases = [self.get(number) for number in changed]
    finally:
      self._db.execute('COMMIT')
    for number in self._seen.keys() - there.keys():
      del self._seen[number]
      self._index.drop(number)
    for case, vector in zip(cases, self.vectors([case.task for case in cases])):
      self._index.put(case.id, vector)
      self._seen[case.id] = there[case.id], case
    self._revision = revision


def _case(row) -> Case:
  number, key, run, task, plan, reward, quarantined, created, updated = row
  return Case(number, key, run, task, plan, reward, bool(quarantined), created, updated)


def _reward(value: float) -> float:
  if isinstance(value, str) or not math.isfinite(value) or not 0 <= value <= 1:
    raise ValueError(f'reward {value!r}: expected a number from 0 to 1')
  return float(value)
