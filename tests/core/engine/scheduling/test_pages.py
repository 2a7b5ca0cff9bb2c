"""Reference counts of pages."""

import pytest

from core.engine.scheduling.pages import PagePool


@pytest.mark.parametrize('count', [1, 3, 4, 30])
def test_pages_are_free_when_nothing_refers_to_them(count):
  """Few pages are counted in another way than many."""
  pool = PagePool(40)
  pages = pool.take(count)
  pool.share(pages)
  pool.share_one(pages.item(0))
  pool.drop(pages)
  assert pool.references[pages].tolist() == [2, *[1] * (count - 1)] and pool.free == 40 - count
  pool.drop(pages)
  assert pool.references[pages].tolist() == [1, *[0] * (count - 1)] and pool.free == 39
  again = pool.take(39)
  assert sorted([*again.tolist(), pages.item(0)]) == list(range(40)) and not pool.free


def test_pool_refuses_free_pages():
  pool = PagePool(1)
  page = pool.take(1)
  with pytest.raises(IndexError):
    pool.take(1)
  pool.drop(page)
  for wrong in (pool.drop, pool.share, lambda pages: pool.share_one(pages.item())):
    with pytest.raises(ValueError, match='page 0 is free'):
      wrong(page)
