"""The report of a window of speech: what it measures, on a tiny model, and that texts cannot leave their place."""

import dataclasses
import re

import numpy as np
import pytest

from interp import report
from interp.lens import Lens
from interp.whisper.decoding.window import Result
from tests.interp.whisper import tiny

EVIL = '</td><script>alert(1)</script>'
RATE = 16_000


def answer(text):
  return Result(tokens=(1, 2), text=text, temperature=0.0, avg_logp=-0.5, no_speech=0.1, compression=1.2)


def made():
  """A study of two layers, three tokens and half a second."""
  rng = np.random.default_rng(0)
  logp = np.log(rng.uniform(0.1, 0.9, (2, 3)))
  lens = Lens(
    top=np.zeros((2, 3, 1), int),
    top_logp=logp[..., None],
    rank=np.array([[4, 0, 2], [0, 0, 0]]),
    logp=logp,
    entropy=-logp,
  )
  return report.Study(
    samples=rng.uniform(-1, 1, RATE // 2).astype(np.float32),
    answer=answer(EVIL),
    pieces=('a', EVIL, '$x$'),
    times=np.array([0.0, 0.12, 0.3, 0.5]),
    lens=lens,
    likeliest=(('x', 'y', EVIL), ('a', EVIL, '$x$')),
    attention=rng.random((3, 25)),
    by_encoder_layer=(answer('noise'), answer(EVIL)),
  )


@pytest.mark.slow
def test_the_page_is_whole_escaped_and_plays_each_token():
  page = report.html(made(), title=EVIL)
  assert page.count('<script>') == 1 and 'alert(1)' in page
  assert not re.search(r'(?:src|href)="(?!data:)', page)  # nothing is fetched
  cells = re.findall(r'title="([^"]*)" data-start="([^"]*)" data-end="([^"]*)"', page)
  assert len(cells) == 6
  assert [cell[1:] for cell in cells[:3]] == [('0.0', '0.12'), ('0.12', '0.3'), ('0.3', '0.5')]
  assert 'rank 4' in cells[0][0] and 'rank 0' in cells[3][0]
  assert 'the likeliest from a layer on: 1 after layer 0, 2 after layer 1.' in page


@pytest.mark.slow
def test_long_answers_of_an_encoder_layer_are_shortened():
  study = dataclasses.replace(made(), by_encoder_layer=(answer('la ' * 500),))
  assert 'la ' * 120 not in report.html(study, title='loop')


@pytest.mark.slow
def test_a_study_ends_with_what_the_model_says():
  samples = np.random.default_rng(0).normal(size=int(0.35 * RATE)).astype(np.float32) / 4
  processor = tiny.processor()
  study = report.study(tiny.params(), tiny.CONFIG, processor, samples, language='de')
  said = [*study.answer.tokens, processor.ids.eot]
  depth, tokens = study.lens.logp.shape
  assert (depth, tokens) == (tiny.CONFIG.decoder_depth, len(said)) and len(study.pieces) == tokens
  assert [r.tokens for r in study.by_encoder_layer][-1] == study.answer.tokens
  assert len(study.by_encoder_layer) == tiny.CONFIG.encoder_depth + 1
  assert (np.diff(study.times) >= 0).all() and study.times[-1] == pytest.approx(0.35)
  mean = study.lens.logp[-1].sum() / tokens  # without the rules that decoding suppresses tokens by
  assert mean <= study.answer.avg_logp + 1e-4


def test_a_recording_without_samples_is_refused():
  with pytest.raises(ValueError, match='without samples'):
    report.study(None, tiny.CONFIG, None, np.zeros(0, np.float32))
