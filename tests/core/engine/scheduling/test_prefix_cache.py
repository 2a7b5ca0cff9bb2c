"""Pages found by what they hold, and given up in order."""

import numpy as np

from core.engine.scheduling.pages import PagePool
from core.engine.scheduling.prefix_cache import PrefixCache


def content(names):
  """Names as the cache takes them."""
  return np.array(names, np.int64).tobytes()


def find(cache, names):
  """(full pages, page to copy from and how many tokens) of some names."""
  full = len(names) // cache._size * cache._size
  match = cache.match(content(names[:full]))
  node = cache.hold(match)
  partial = cache.partial(node, content(names[node.stop * cache._size :][: cache._size]))
  cache.release(node)
  found = [page for part in match.pages for page in part.tolist()]
  return found, partial and (partial.node.pages[0], partial.tokens)


def insert(cache, names, pages):
  """Puts content into the cache that nothing else refers to."""
  root = cache.hold(cache.match(b''))
  node = cache.insert(root, content(names), pages)
  cache._pool.drop(pages[node.stop :])
  cache.release(node)


def test_prefixes_find_the_longest_known_beginning():
  pool = PagePool(8)
  cache = PrefixCache(pool, 4)
  pages = pool.take(3)
  first = pages.tolist()
  held = np.arange(10)
  insert(cache, held, pages)
  assert find(cache, held) == (first[:2], (first[2], 2))
  assert find(cache, np.append(held[:9], 99)) == (first[:2], (first[2], 1))
  assert find(cache, np.append(held[:6], [7, 7, 7])) == (first[:1], (first[1], 2))
  assert find(cache, np.array([5, 6])) == ([], None)
  more = pool.take(3)
  insert(cache, np.arange(11), more)  # the last page has grown
  assert more.tolist()[:2] == first[:2]  # the others were known
  assert len(cache) == 3 and find(cache, np.arange(12)) == (first[:2], (more[2], 3))
  cache.evict(6)
  assert pool.free == 6 and find(cache, held) == (first[:2], None)  # leaves first


def test_a_page_that_is_held_is_not_evicted_and_the_rest_of_its_run_is():
  pool = PagePool(6)
  cache = PrefixCache(pool, 2)
  pages = pool.take(5)
  insert(cache, range(10), pages)
  node = cache.hold(cache.match(content([*range(4), 9, 9])))
  assert node.stop == 2
  cache.evict(3)
  assert pool.free == 3 and find(cache, [*range(10)])[0] == pages[:3].tolist()
  cache.clear()
  assert pool.free == 4 and find(cache, [*range(10)])[0] == pages[:2].tolist()
  cache.release(node)
  cache.clear()
  assert pool.free == 6 and not len(cache)


def test_the_least_recently_used_leaves_are_evicted_first_and_a_use_counts_for_those_before_it():
  pool = PagePool(5)
  cache = PrefixCache(pool, 2)
  for names in ([1, 1, 2, 2], [3, 3], [1, 1, 4, 4]):
    insert(cache, names, pool.take(len(names) // 2))
  assert pool.free == 1  # the first page is shared
  cache.match(content([3, 3]))
  cache.match(content([1, 1, 2, 2]))
  cache.evict(2)
  assert len(cache) == 3 and find(cache, [1, 1, 4, 4])[0] == find(cache, [1, 1])[0]
  cache.match(content([1, 1, 2, 2]))
  cache.evict(3)
  assert len(cache) == 2 and not find(cache, [3, 3])[0]
  cache.evict(5)
  assert len(cache) == 0


def test_the_cost_of_a_match_does_not_grow_with_the_prompts_that_share_a_head():
  """4,000 prompts whose common head ends inside a page: a few keys are compared for each, not all of them."""
  pool = PagePool(9000)
  cache = PrefixCache(pool, 16)
  r = np.random.default_rng(0)
  head = r.integers(0, 100, 40)
  tails = r.integers(0, 100, (4000, 20))
  for tail in tails:
    names = [*head, *tail]
    find(cache, names)
    insert(cache, names, pool.take(4))
  assert len(cache) > 7000 and cache.compared < 8 * len(tails)
  assert pool.free == 9000 - len(cache)
