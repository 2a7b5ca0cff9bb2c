"""The learned selector: its loss and updates, its splits, and how a memory reads."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents.memory import CaseBank, HashEncoder, Memory, Reading, fine_tune, fitting, selector
from agents.memory.encoders import SentenceEncoder
from core.files.config import CheckpointError
from tests.agents.memory.test_encoder_transformers import tiny_folder

CONFIG = selector.Config(width=6, hidden=8, dropout=0.0)


def random_batch(seed=0, n=5):
  rng = np.random.default_rng(seed)
  return selector.Batch(
    *(rng.normal(size=(n, 6)).astype(np.float32) for _ in range(2)),
    rng.integers(0, 2, n).astype(np.float32),
    rng.random(n).astype(np.float32),
  )


@pytest.mark.slow
def test_the_loss_is_weighted_cross_entropy_and_its_gradient_that_of_finite_differences():
  with jax.enable_x64(True):
    params = jax.tree.map(lambda w: w.astype(jnp.float64) + 0.01, selector.init(CONFIG).params)
    b = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), random_batch())
    loss = lambda p: selector.cross_entropy(selector.apply(p, b.tasks, b.cases), b.rewards, b.weights)
    q = np.asarray(selector.q_values(params, b.tasks, b.cases))
    want = -np.sum(b.weights * (b.rewards * np.log(q) + (1 - b.rewards) * np.log(1 - q))) / b.weights.sum()
    assert loss(params) == pytest.approx(float(want))
    grads = jax.grad(loss)(params)
    for name, at in (('up', (3, 2)), ('up_bias', (1,)), ('out', (4, 1)), ('out_bias', (0,))):
      move = lambda d, name=name, at=at: params.replace(**{name: getattr(params, name).at[at].add(d)})
      slope = (loss(move(1e-6)) - loss(move(-1e-6))) / 2e-6
      assert slope == pytest.approx(float(getattr(grads, name)[at]), rel=1e-4, abs=1e-9)


def test_cross_entropy_equals_optax_and_pushes_hard_where_squared_error_fades():
  b = random_batch()
  logits = selector.apply(selector.init(CONFIG).params, b.tasks, b.cases)
  each = optax.losses.softmax_cross_entropy_with_integer_labels(logits, b.rewards.astype(int))
  got = selector.cross_entropy(logits, b.rewards, b.weights)
  np.testing.assert_allclose(got, (each * b.weights).sum() / b.weights.sum(), rtol=1e-5)
  sure = jnp.array([[12.0, -12.0]])  # sure of failure, and wrong
  slope = jax.grad(lambda z: selector.cross_entropy(z, jnp.ones(1), jnp.ones(1)))(sure)
  assert jnp.abs(slope).max() > 0.9


def test_padding_weighs_nothing_and_a_case_s_order_matters():
  b = random_batch()
  grown = jax.tree.map(lambda x: np.concatenate([x, np.full_like(x[:3], 7)]), b).replace(
    weights=np.concatenate([b.weights, np.zeros(3, np.float32)])
  )
  state = selector.init(CONFIG)
  one, two = selector.update(state, b, CONFIG)[0], selector.update(state, grown, CONFIG)[0]
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), one.params, two.params)
  assert not np.allclose(
    selector.q_values(state.params, b.tasks, b.cases), selector.q_values(state.params, b.cases, b.tasks)
  )


def test_successes_are_weighted_up_and_never_down():
  np.testing.assert_allclose(fitting.class_weights(np.array([1, 0, 0, 0.0])), [3, 1, 1, 1])
  np.testing.assert_allclose(fitting.class_weights(np.array([1, 1, 1, 0.0])), 1)
  np.testing.assert_allclose(fitting.class_weights(np.zeros(2)), 1)


def synthetic(n=400, seed=0):
  """Success where the case's first coordinate is positive, four pairs a task."""
  rng = np.random.default_rng(seed)
  tasks, cases = (rng.normal(size=(n, 6)).astype(np.float32) for _ in range(2))
  return fitting.Pairs(tasks, cases, (cases[:, 0] > 0).astype(np.float32), tuple(f't{i // 4}' for i in range(n)))


def test_a_fit_learns_validates_on_whole_tasks_and_is_the_same_again():
  pairs = synthetic()
  held = fitting.split(pairs.keys, 0.2, 42)
  keys = np.array(pairs.keys)
  assert not set(keys[held]) & set(keys[~held]) and 0.1 < held.mean() < 0.3
  c = selector.Config(width=6, hidden=32, lr=1e-2)
  state, seen = fitting.fit(pairs, c, epochs=10, share=0.2)
  assert seen.auc > 0.95 and seen.pairs == held.sum()
  again, _ = fitting.fit(pairs, c, epochs=10, share=0.2)
  assert selector.version(state) == selector.version(again)
  fresh = synthetic(seed=1)
  q = selector.scores(state.params, fresh.tasks, fresh.cases, chunk=100)
  np.testing.assert_allclose(q, selector.q_values(state.params, fresh.tasks, fresh.cases), atol=1e-6)
  assert np.mean((q > 0.5) == (fresh.rewards > 0.5)) > 0.9


def test_nothing_to_learn_from_is_said():
  empty = synthetic(0)
  with pytest.raises(ValueError, match='none is left to train on'):
    fitting.fit(empty, CONFIG)
  with pytest.raises(ValueError, match='no pairs'):
    fitting.validate(selector.init(CONFIG).params, empty)
  same = selector.init(CONFIG)
  assert fitting.learn_online(same, [], None, CONFIG) is same


def test_a_selector_is_saved_and_loaded(tmp_path):
  state, _ = fitting.fit(synthetic(), selector.Config(width=6, hidden=8), epochs=1)
  selector.save(tmp_path, selector.Config(width=6, hidden=8), state)
  c, again = selector.load(tmp_path)
  assert selector.version(again) == selector.version(state) and c.hidden == 8
  (tmp_path / 'selector.json').write_text('{"width": 6, "updates": 1, "depth": 5}')
  with pytest.raises(CheckpointError, match='depth'):
    selector.load(tmp_path)


def bank_of(n=12):
  bank = CaseBank(':memory:', HashEncoder(32))
  for i in range(n):
    bank.add(f'task {i} word{i % 3}', f'plan {i}', i % 2, key=f'k{i}')
  return bank


def ids(found):
  return [f.case.id for f in found]


def test_reading_is_a_function_of_bank_selector_k_and_seed():
  bank = bank_of()
  for reading in (
    Reading(),
    Reading('random', seed=1),
    Reading('q'),
    Reading('q', alpha=0.5, seed=3),
    Reading('cosine', balanced=True, k=2),
    Reading('cosine', void=0.3),
  ):
    first, second = Memory(bank, reading).read('word1 task 4'), Memory(bank, reading).read('word1 task 4')
    assert first == second and first
  draws = {tuple(ids(Memory(bank, Reading('random', seed=s)).read('word1'))) for s in range(20)}
  assert len(draws) > 10 and all(len(set(d)) == 4 for d in draws)


def test_balanced_reading_void_cases_and_own_cases():
  bank = bank_of()
  found = Memory(bank, Reading(balanced=True, k=2)).read('word1')
  assert [f.case.positive for f in found] == [True, True, False, False]
  assert Memory(bank, Reading(void=0.99)).read('nothing alike') == []
  assert len(Memory(bank, Reading(void=0.01)).read('nothing alike')) == 4
  own = bank.get(5)
  assert ids(Memory(bank, Reading(k=1)).read(own.task, key=own.key)) == [5]
  assert 5 not in ids(Memory(bank, Reading(k=12, exclude_own=True)).read(own.task, key=own.key))


def test_draws_follow_the_softmax_of_scores():
  bank = CaseBank(':memory:', HashEncoder(16))
  for i in range(3):
    bank.add('a ' * (i + 1) + 'b', '', 1, key=str(i))
  memory = Memory(bank, Reading(k=3))
  found = memory.read('a b')
  alpha = 0.05
  want = np.exp(np.array([f.score for f in found]) / alpha)
  first = []
  for seed in range(1500):
    memory.reading = Reading(k=1, alpha=alpha, seed=seed)
    first += ids(memory.read('a b'))
  got = [first.count(f.case.id) / 1500 for f in found]
  np.testing.assert_allclose(got, want / want.sum(), atol=0.04)


def test_writing_teaches_the_selector_online_and_says_which_version_chose():
  memory = Memory(bank_of(), Reading('q'), config=selector.Config(width=32, hidden=8), run='r')
  before = memory.version()
  used = [f.case for f in memory.read('word1 new')]
  memory.write('word1 new', 'p', 1.0, used=used)
  assert memory.version() != before and int(memory.state.updates) == memory.config.online_steps
  assert {u.selector for u in memory.bank.uses()} == {before}
  assert Memory(memory.bank, Reading('cosine')).version() == 'cosine'


@pytest.mark.parametrize(
  'change', [{'kind': 'best'}, {'k': -1}, {'alpha': -1}, {'void': 2}, {'bandwidth': 0}, {'prefilter': 3}]
)
def test_impossible_readings_are_refused(change):
  (name,) = change
  with pytest.raises(ValueError, match=name):
    Reading(**change)
  with pytest.raises(ValueError, match='width'):
    Memory(bank_of(), config=CONFIG)


@pytest.mark.slow
def test_encoder_and_network_learn_together(tmp_path):
  """Success depends on one word of the case; the tuned encoder tells it apart on held-out tasks."""
  encoder = SentenceEncoder.load(tiny_folder(tmp_path))
  bank = CaseBank(':memory:', encoder)
  good, bad = bank.add('x good', '', 1), bank.add('y evil', '', 1)
  for i in range(60):
    bank.add_uses(f'task {i % 7}', [good if i % 2 else bad], float(i % 2), key=f'k{i}')
  c = selector.Config(width=16, hidden=16, lr=1e-2, batch=16, dropout=0.0)
  tuned, state, seen = fine_tune.fit(encoder, bank.uses(), c, epochs=6, share=0.2)
  assert seen.auc == 1.0 and tuned.id != encoder.id
  change = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), tuned.params, encoder.params)
  assert change.words > 0 and change.blocks.attn.q > 0
  assert int(state.updates) == 6 * -(-sum(~fitting.split([u.key for u in bank.uses()], 0.2, c.seed)) // 16)
