"""Keys and values of earlier tokens, behind one interface.

B rows   T new tokens   N query heads   K key heads   H head size

A decoder takes any of them as its `cache` argument, and only calls the methods of `Past`:

  Nothing   no earlier tokens, and nothing to keep: training
  Start     no earlier tokens; the new ones start a `Cache`: prefill
  Cache     a contiguous cache, a row for each sequence
  Prefix    a prompt's cache, read by several rows of responses each
  Pages     pools of pages that sequences share: the engine
"""

from core.past.base import Past
from core.past.cache import Cache, Start
from core.past.nothing import Nothing
from core.past.pages import Pages
from core.past.prefix import Prefix

__all__ = ['Cache', 'Nothing', 'Pages', 'Past', 'Prefix', 'Start', 'of']


def of(cache: Past | int | None) -> Past:
  """The meaning of a `cache` argument: a number of slots starts a `Cache`, None keeps nothing."""
  if cache is None:
    return Nothing()
  if isinstance(cache, int):
    return Start(cache)
  return cache
