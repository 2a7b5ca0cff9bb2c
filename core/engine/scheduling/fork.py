"""The request of a fork: what is left of its parent's, with random draws of its own."""

import dataclasses
import hashlib
from typing import Any

from core.engine.request import Request
from core.engine.scheduling.sequence import Sequence


def forked(parent: Sequence, said: list[int], changes: dict[str, Any]) -> Request:
  """The request of samples that continue `parent` after its first tokens `said`; changes: fields to replace."""
  request = parent.request
  prompt = [*request.prompt, *said]
  fields = {'n': 1, 'max_new': request.max_new - len(said), 'media': (), **changes, 'prompt': prompt}
  made = dataclasses.replace(request, **fields)
  if 'seed' in changes:
    return made
  return dataclasses.replace(made, seed=_seed(parent, len(prompt), made.n))


def _seed(parent: Sequence, at: int, n: int) -> int:
  """A seed that depends on the parent, the token and how often it was forked; the n from it exclude the parent's."""
  own = (parent.request.seed + parent.sample) % 2**31
  text = f'{own} {at} {parent.forks}'.encode()
  seed = int.from_bytes(hashlib.sha256(text).digest()[:4]) % 2**31
  if (own - seed) % 2**31 >= n:
    return seed
  return (seed + n) % 2**31
