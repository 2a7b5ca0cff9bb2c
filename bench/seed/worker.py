"""A scoring process: one JSON line in, one JSON line out, under a memory limit that the kernel keeps.

Started by `bench.seed.pool`, which kills it when it is late.
"""

import contextlib
import dataclasses
import json
import os
import resource
import sys
import traceback

from bench.seed.result import Settings
from bench.seed.scoring import score


def _answer(job: dict) -> dict:
  try:
    settings = Settings(**job['settings'])
    return {'score': dataclasses.asdict(score(*job['pair'], settings=settings, symbolic=job['symbolic']))}
  except MemoryError:
    return {'memory': True}
  except Exception:
    # A defect of the scorer must reach the caller as text and must not cost the batch.
    return {'error': traceback.format_exc(limit=-3)}


def main() -> None:
  """Serves pairs from standard input until it closes."""
  limit = int(sys.argv[1])
  # Not every system lets a process lower this; Linux does.
  with contextlib.suppress(ValueError, OSError):
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  answers = os.fdopen(os.dup(1), 'w', encoding='ascii')
  # Nothing that a library prints may mix with the answers.
  os.dup2(2, 1)
  print(json.dumps({'ready': True}), file=answers, flush=True)
  for line in sys.stdin:
    print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)


if __name__ == '__main__':
  main()
