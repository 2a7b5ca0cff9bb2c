"""What the semantic tokenizer learns from a proxy that reads transcripts."""

import jax
import numpy as np
import pytest

from tests.vibevoice import tiny
from vibevoice.training import transcript

CONFIG, HOP = tiny.CONFIG, tiny.HOP
CLIPS = [tiny.clip(3 * HOP), tiny.clip(5 * HOP - 7, seed=1)]
SAID = [[5, 6], [7]]


def test_frames_come_first_and_the_transcript_is_what_is_predicted():
  batch = transcript.batch(CONFIG, CLIPS, SAID)
  assert list(batch.tokens[0, :7]) == [*[CONFIG.slot] * 3, CONFIG.start, 5, 6, CONFIG.eos]
  assert list(batch.tokens[1, :8]) == [*[CONFIG.slot] * 5, CONFIG.start, 7, CONFIG.eos]
  learned = batch.weights > 0
  assert [list(np.flatnonzero(row)) for row in learned] == [[4, 5, 6], [6, 7]]
  assert batch.weights.sum() == pytest.approx(1)
  np.testing.assert_allclose(batch.weights[learned], 1 / 5, rtol=1e-6)
  assert (batch.positions[0, 7:] == -1).all() and batch.wav.shape[1] % HOP == 0


@jax.jit
def loss_and_gradient(params, batch):
  return jax.value_and_grad(lambda p: transcript.loss(p, CONFIG, batch).total)(params)


@pytest.mark.slow
def test_the_loss_is_the_mean_of_each_row_alone_and_reaches_the_tokenizer():
  params = tiny.draw(transcript.spec(CONFIG))

  def run(order, heard=(0, 1)):
    clips = [CLIPS[i] for i in heard]
    batch = transcript.batch(CONFIG, [clips[i] for i in order], [SAID[i] for i in order])
    return loss_and_gradient(params, batch)

  both, grads = run((0, 1))
  first, second = (float(run((i, i))[0]) for i in (0, 1))
  assert float(both) == pytest.approx((3 * first + 2 * second) / 5, rel=1e-5)
  assert abs(float(run((0, 1), heard=(1, 0))[0]) - float(both)) > 1e-4  # it listens
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads.semantic.encoder))
