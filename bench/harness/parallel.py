"""Calls to a model in threads that never keep a program from ending."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def each_as_it_finishes(ask: Callable[[Any], Any], questions: Sequence, workers: int) -> Iterator[tuple[Any, Any]]:
  """(question, ask(question)) as calls finish; `workers` 0 calls in this thread.

  An exception of a call is raised here. At most `workers` questions are out at a time. When the caller stops, or is
  interrupted, calls that hang are abandoned: their threads are daemons, so that one Ctrl-C ends the program.
  What must survive an interrupt is written by `ask`.
  """
  if not workers:
    for question in questions:
      yield question, ask(question)
    return
  waiting = queue.SimpleQueue()
  finished = queue.SimpleQueue()
  stop = threading.Event()
  for question in questions:
    waiting.put(question)
  for _ in range(min(workers, len(questions))):
    threading.Thread(target=_work, args=(ask, waiting, finished, stop), daemon=True).start()
  try:
    for _ in questions:
      question, answer, error = finished.get()
      if error is not None:
        raise error
      yield question, answer
  finally:
    stop.set()


def _work(ask: Callable, waiting: queue.SimpleQueue, finished: queue.SimpleQueue, stop: threading.Event) -> None:
  while not stop.is_set():
    try:
      question = waiting.get_nowait()
    except queue.Empty:
      return
    try:
      finished.put((question, ask(question), None))
    except BaseException as error:  # raised again where the results are read
      finished.put((question, None, error))
