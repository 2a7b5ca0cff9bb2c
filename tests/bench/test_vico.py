"""What ViCO is measured by: questions of a prompt, accuracy of each way to feed tiles, figures of the router."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.stats import mannwhitneyu

import internvl
from bench.vico import measure, run
from core.toy import panels
from internvl import train
from internvl.flash import router
from internvl.training.export import export
from internvl.training.start import processor_for

QUESTIONS = panels.PANELS * panels.ASKED  # of a prompt


@pytest.fixture(scope='module')
def processor():
  return processor_for(train.CONFIGS['panels'])


def test_questions_are_pairs_of_letters_of_the_answer(processor):
  asked = measure.prompts(processor, 5, seed=0)
  for i, (x, dense) in enumerate(zip(asked.inputs, asked.dense)):
    example = panels.example('heldout', 0, i)
    assert dense.tolist() == [panel.kind == panels.DENSE for panel in example.panels]
    assert x.tiles.tolist() == [panels.PANELS]  # a tile is a panel, and there is no thumbnail
    own = asked.question[i, : len(x.tokens)]
    words = [bytes(t for t in x.tokens[own == q].tolist() if t < 256).decode().strip() for q in range(QUESTIONS)]
    assert words == [example.answer[i : i + 2] for i in range(0, 2 * QUESTIONS, 2)]
    assert (asked.question[i, len(x.tokens) :] == -1).all()


def test_auc_is_the_mann_whitney_statistic_with_ties():
  r = np.random.default_rng(0)
  scores, positive = r.integers(0, 8, (20, 4)).astype(np.float32), r.random((20, 4)) < 0.3
  want = mannwhitneyu(scores[positive], scores[~positive]).statistic / (positive.sum() * (~positive).sum())
  assert measure.auc(scores, positive) == pytest.approx(want)
  assert measure.auc(positive.astype(float), positive) == 1
  with pytest.raises(ValueError, match='0 positives among 80'):
    measure.auc(scores, np.zeros_like(positive))


@pytest.mark.slow
def test_models_of_folders_are_measured_and_a_copy_of_the_base_loses_nothing(processor, tmp_path):
  base = dataclasses.replace(internvl.CONFIGS['micro'], image_token=processor.image_id)
  flash = dataclasses.replace(base, flash=router.Config())
  weights = internvl.init(jax.random.key(0), flash)
  export(tmp_path / 'flash', flash, weights, processor)
  export(tmp_path / 'base', base, weights.replace(compact=None, router=None), processor)
  found = measure.measure(tmp_path / 'base', tmp_path / 'flash', count=70, seed=0)  # more than one batch
  assert set(found.right) == {'base', 'full', 'routed', 'random', 'compressed'}
  assert all(right.shape == (70, QUESTIONS) for right in found.right.values())
  np.testing.assert_array_equal(found.right['base'], found.right['full'])
  assert found.scores.shape == found.compressed.shape == found.dense.shape == (70, panels.PANELS)
  text = run.table(run.results([found, found]))
  assert '| base | ' in text and '| full | ' in text and '+0.00 to +0.00' in text
