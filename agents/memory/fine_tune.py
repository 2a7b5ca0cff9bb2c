"""The selector with its encoder trained too, as Memento's released code does: one shared encoder, first-token states.

Departs from it in having no dropout inside the encoder, and in validating on whole tasks, never on rows.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from agents.memory import bert, fitting, selector
from agents.memory.cases import Use, case_text
from agents.memory.encoders import SentenceEncoder
from core.training.optim import decayed


@struct.dataclass
class Params:
  """The encoder and the network on top of it."""

  encoder: bert.Params
  head: selector.Params


def apply(
  params: Params, config: bert.Config, tasks: tuple, cases: tuple, *, dropout: float = 0.0, key: jax.Array | None = None
) -> jax.Array:
  """Logits [B, 2] of (tokens, mask) pairs [B, T] of tasks and case texts."""
  embed = lambda text: bert.embed(params.encoder, config, *text, 'cls')
  return selector.apply(params.head, embed(tasks), embed(cases), dropout=dropout, key=key)


def fit(
  encoder: SentenceEncoder,
  uses: Sequence[Use],
  c: selector.Config,
  *,
  epochs: int = 3,
  share: float = 0.1,
  name: str = 'fine-tuned',
) -> tuple[SentenceEncoder, selector.State, fitting.Validation | None]:
  """Trains encoder and network together from the encoder's weights (the usual rate is 2e-5).

  Returns the encoder, the network's state and its validation on held-out tasks after the last epoch. Raises
  ValueError when pooling is not 'cls' or no use is left to train on.
  """
  if encoder.pooling != 'cls':
    raise ValueError(f"pooling={encoder.pooling!r}: the selector reads first-token states, 'cls'")
  held = fitting.split([u.key for u in uses], share, c.seed)
  train = [u for u, out in zip(uses, held) if not out]
  if not train:
    raise ValueError(f'{len(uses)} uses of {len({u.key for u in uses})} tasks: none is left to train on')
  params = Params(encoder.params, selector.init(c).params)
  total = epochs * -(-len(train) // c.batch)
  spec = Params(bert.spec(encoder.config), selector.spec(c))
  rule = selector.optimizer(c, total, decayed(params, spec))
  moments = rule.init(params)
  step = _step(rule, encoder.config, c)
  weight = fitting.class_weights(np.array([u.reward for u in train], np.float32))
  rng = np.random.default_rng(c.seed)
  count = 0
  for _ in range(epochs):
    order = rng.permutation(len(train))
    for start in range(0, len(order), c.batch):
      rows = order[start : start + c.batch]
      params, moments = step(params, moments, _batch(encoder, train, rows, weight, c.batch), count)
      count += 1
  tuned = encoder.with_params(params.encoder, name)
  state = selector.State(params.head, selector.optimizer(c).init(params.head), jnp.int32(count))
  test = [u for u, out in zip(uses, held) if out]
  seen = None
  if test:
    seen = fitting.validate(state.params, fitting.pairs_of(test, tuned))
  return tuned, state, seen


def _batch(
  encoder: SentenceEncoder, uses: Sequence[Use], rows: np.ndarray, weight: np.ndarray, size: int
) -> selector.Batch:
  """A batch of `size`; one that is short repeats its first pair at weight 0."""
  full = np.concatenate([rows, np.full(size - len(rows), rows[0])])
  is_row = np.arange(size) < len(rows)
  weights = np.where(is_row, weight[full], 0).astype(np.float32)
  tasks, cases = (
    encoder.tokens([text(uses[i]) for i in full]) for text in (lambda u: u.query, lambda u: case_text(u.case))
  )
  cut = lambda pair: tuple(x[:size] for x in pair)
  rewards = np.array([uses[i].reward for i in full], np.float32)
  return selector.Batch(cut(tasks), cut(cases), rewards, weights)


def _step(rule: optax.GradientTransformation, config: bert.Config, c: selector.Config):
  @jax.jit
  def advance(params, moments, batch, count):
    key = jax.random.fold_in(jax.random.key(c.seed), count)
    loss = lambda p: selector.cross_entropy(
      apply(p, config, batch.tasks, batch.cases, dropout=c.dropout, key=key), batch.rewards, batch.weights
    )
    change, moments = rule.update(jax.grad(loss)(params), moments, params)
    return optax.apply_updates(params, change), moments

  return advance
