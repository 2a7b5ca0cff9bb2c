"""The extended edit distance against a plain recursive statement of it, and the published example."""

import functools
import itertools
import random

import pytest

from bench.seed import score, tree
from bench.seed.nodes import Budget, Node, number, symbol


def random_tree(rng, size):
  if size == 1:
    return rng.choice([symbol('a'), symbol('b'), number(2)])
  cuts = sorted(rng.sample(range(1, size - 1), min(rng.randint(0, 2), size - 2))) if size > 2 else []
  edges = [0, *cuts, size - 1]
  args = tuple(random_tree(rng, b - a) for a, b in itertools.pairwise(edges))
  return Node(rng.choice(['add', 'mul', 'sin']), args)


def size(forest):
  return sum(1 + size(n.args) for n in forest)


def recursive_distance(a, b):
  """Forests shrink from the right: drop a node, drop a whole tree, or match the last trees."""

  @functools.cache
  def forests(f, g):
    if not f and not g:
      return 0
    options = []
    if f:
      *rest, last = f
      rest = tuple(rest)
      options += [forests((*rest, *last.args), g) + 1, forests(rest, g) + tree.subtree_cost(size((last,)))]
    if g:
      *rest_g, last_g = g
      rest_g = tuple(rest_g)
      options += [forests(f, (*rest_g, *last_g.args)) + 1, forests(f, rest_g) + tree.subtree_cost(size((last_g,)))]
    if f and g:
      label = (last.head, last.value) != (last_g.head, last_g.value)
      options.append(forests(rest, rest_g) + forests(last.args, last_g.args) + label)
    return min(options)

  return forests((a,), (b,))


def test_recursive_definition():
  rng = random.Random(0)
  for _ in range(150):
    a, b = random_tree(rng, rng.randint(1, 12)), random_tree(rng, rng.randint(1, 12))
    got = tree.distance(tree.Flat(a), tree.Flat(b), Budget(10**6))
    assert got == pytest.approx(recursive_distance(a, b)), (a, b)
    assert got == pytest.approx(tree.distance(tree.Flat(b), tree.Flat(a), Budget(10**6)))
    assert tree.distance(tree.Flat(a), tree.Flat(a), Budget(10**6)) == 0


def test_subtree_discount():
  assert [tree.subtree_cost(s) for s in (1, 5, 6, 10)] == pytest.approx([1, 5, 5.6, 8])


@pytest.mark.parametrize(
  'reference, prediction, points',
  [
    # One change in trees of 11, 13 and 8 nodes: 60 - 100/n, as the public scorer gives (CMPhysBench, R2).
    (r'\frac{\hbar^2 k^2}{2m}', r'\frac{\hbar^2 k^2}{m}', 60 - 100 / 11),
    (r'\sqrt{\frac{m}{\mu_0 n_s q^2}}', r'\sqrt{\frac{m}{\mu_0 n_s q}}', 60 - 100 / 13),
    (r'\frac{4t^2}{U}', r'-\frac{4t^2}{U}', 60 - 100 / 8),
    ('x', 'y', 0),
  ],
)
def test_points(reference, prediction, points):
  assert score(reference, prediction, 'Expression').points == pytest.approx(points)
