"""Many clients with requests of every kind: each gets its answer or a proper error, and nothing leaks."""

import pytest

from tests.core.serving.chat import load


@pytest.mark.parametrize(
  'clients, requests',
  [pytest.param(40, 400, marks=pytest.mark.slow), pytest.param(500, 10_000, marks=pytest.mark.long)],
)
def test_hostile_and_honest_clients_together(clients, requests):
  found = load.run(clients, requests)
  assert not found.wrong and not found.leaks and found.error is None
  assert sum(found.seen.values()) == requests
  assert all(found.seen[kind, 200] for kind in ('whole', 'stream', 'several', 'text', 'schema', 'reads slowly'))
