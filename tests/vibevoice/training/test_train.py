"""Fine-tuning from files on disk: rows, refusals, and a run that ends with a folder."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

import vibevoice
from core.audio import write
from core.training.data import DataError
from core.training.optim import Optim
from tests.vibevoice import tiny
from vibevoice import train
from vibevoice.config import SAMPLE_RATE
from vibevoice.training import recordings
from vibevoice.training.configs import Config, Lora

CONFIG, HOP = tiny.CONFIG, tiny.HOP


@pytest.fixture(scope='module', autouse=True)
def short_silences():
  """A second of silence is 600 frames of the tiny codec."""
  with pytest.MonkeyPatch.context() as patch:
    for name, seconds in {'BEFORE': 0.01, 'FADE': 0.005, 'AFTER': 0.02}.items():
      patch.setattr(recordings, name, seconds)
    yield


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> pathlib.Path:
  """Three recordings: one with a voice, one without, one of two speakers."""
  folder = tmp_path_factory.mktemp('data')
  for name, samples in {'a': 900, 'b': 1200, 'c': 600, 'voice': 200}.items():
    write.save_wav(folder / f'{name}.wav', tiny.clip(samples), SAMPLE_RATE)
  lines = [
    {'script': 'Speaker 1: Hello.', 'audio': 'a.wav', 'voices': ['voice.wav']},
    {'script': 'Speaker 1: Hello.', 'audio': 'b.wav'},
    {'script': 'Speaker 1: Hello.\nSpeaker 2: Good bye.', 'audio': 'c.wav'},
  ]
  (folder / 'data.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return folder / 'data.jsonl'


def rows(data, **changes):
  c = Config(**({'frames': 4096, 'drop_voices': 0.0} | changes))
  return recordings.Rows(c, recordings.listed([str(data)]), tiny.processor(), tiny.params())


def frames(samples):
  around = round((recordings.BEFORE + recordings.AFTER) * SAMPLE_RATE)
  return -(-(samples + around) // HOP)


def test_silences_and_fades_are_around_a_recording():
  got = recordings.wrapped(np.ones(1000, np.float32))
  before, fade, after = 240, 120, 480  # samples
  assert got.shape == (before + 1000 + after,)
  assert not got[:before].any() and not got[-after:].any()
  assert got[before + fade // 2] == 0.5 == got[-after - 1 - fade // 2]
  assert (got[before + fade : before + 1000 - fade] == 1).all()


def test_a_piece_of_the_recording_is_the_voice_where_one_speaks(data):
  made = [rows(data)._row(recording, 0) for recording in rows(data).recordings]
  prompts = [int((~row.target).sum()) for row in made]
  assert prompts[0] == 200 // HOP
  assert 1200 / 4 / HOP <= prompts[1] <= 1200 / 2 / HOP + 1
  assert prompts[2] == 0
  assert [int(row.target.sum()) for row in made] == [frames(n) for n in (900, 1200, 600)]


def test_batches_depend_on_the_step_alone_and_pass_over_all(data):
  few = {'batch': 3, 'accumulate': 1}
  first, again = rows(data, **few).batch(1), rows(data, **few).batch(1)
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
    np.testing.assert_array_equal(a, b)
  assert sorted(first.target.sum(1)) == sorted(frames(n) for n in (900, 1200, 600))
  bare = rows(data, bare=1.0).row(0)
  assert bare.tokens[0] == CONFIG.start and bare.target.all()
  assert rows(data, drop_voices=1.0).row(0).target.all()


def test_a_curriculum_takes_the_recordings_that_fit_its_stage(data):
  made = rows(data, batch=1, steps=5, length=400, frames=200, curriculum=((2, 250), (3, 400)))
  most = [made._most(r) for r in made.recordings]
  taken = [made._row(r, 0) for r in made.recordings]
  for (tokens, slots), row in zip(most, taken):
    assert len(row.tokens) <= tokens <= len(row.tokens) + 20 and len(row.latents) <= slots <= len(row.latents) + 20
  fitting = sorted(tokens <= 250 and slots <= 125 for tokens, slots in most)
  assert fitting[0] is False and fitting[-1] is True
  assert [made.batch(step).tokens.shape[1] for step in range(5)] == [250, 250, 400, 400, 400]
  assert made.batch(1).latents.shape[1] == 125
  with pytest.raises(ValueError, match='no recording fits 10 tokens'):
    rows(data, steps=5, length=400, curriculum=((1, 10), (1, 20), (3, 400)))  # before a step is trained


@pytest.mark.parametrize(
  ('curriculum', 'message'),
  [
    (((5, 100), (5, 64)), 'stage 2: 5 steps of 64 tokens; expected 1 or more steps and more than 100 tokens'),
    (((0, 64), (10, 128)), 'stage 1: 0 steps'),
    (((5, 64), (4, 128)), '9 steps that end with 128 tokens; expected steps=10'),
    (((10, 64),), 'end with 64 tokens; expected steps=10 that end with length=128'),
  ],
)
def test_bad_curricula(curriculum, message):
  with pytest.raises(ValueError, match=message):
    Config(steps=10, length=128, curriculum=curriculum)


def test_padding_to_few_lengths_changes_no_vector():
  clip = tiny.clip(3 * HOP + 5)
  got = recordings.vectors(tiny.params().acoustic, CONFIG.acoustic, clip)
  want = vibevoice.tokenizer.encode(tiny.params().acoustic, CONFIG.acoustic, clip[None])[0]
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_semantic_features_are_of_what_the_model_will_hear_of_itself(data):
  params = tiny.params()
  plain, heard = rows(data), rows(data, semantic_of='codec')
  path = plain.recordings[0].audio
  acoustic, semantic = heard._speech_means(path)
  np.testing.assert_array_equal(acoustic, plain._speech_means(path)[0])
  made = vibevoice.tokenizer.decode(params.acoustic, CONFIG.acoustic, acoustic[None])
  want = vibevoice.tokenizer.encode(params.semantic, CONFIG.semantic, made)[0]
  np.testing.assert_allclose(semantic, want, atol=1e-4 * np.std(want))
  assert np.abs(semantic - plain._speech_means(path)[1]).mean() > 0.1 * np.std(want)


def test_bad_data_is_named(data, tmp_path):
  def refused(record, match):
    path = tmp_path / 'bad.jsonl'
    path.write_text(json.dumps(record) + '\n')
    with pytest.raises(DataError, match=match):
      rows(path).row(0)

  refused({'script': 'Speaker 1: Hi.'}, r'bad\.jsonl:1: expected a script and an audio')
  refused({'script': 'Speaker 1: Hi.', 'audio': 'a.wav', 'text': 'b'}, r"bad\.jsonl:1: unknown keys \['text'\]")
  refused({'script': 'Speaker 1: Hi.', 'audio': 'none.wav'}, r'bad\.jsonl:1: .*none\.wav')
  refused({'script': 'Hi.', 'audio': str(data.parent / 'a.wav')}, r'bad\.jsonl:1: script, line 1')
  with pytest.raises(DataError, match=r'data\.jsonl:\d: the recording: \d+ frames, \d+ more than the 20'):
    rows(data, frames=20).row(0)


def test_a_run_that_cannot_start_says_so():
  with pytest.raises(ValueError, match="model='', data="):
    train.check(Config())
  with pytest.raises(ValueError, match='scaling are constants'):
    train.adapt(Config(trainable='.*', lora=Lora(rank=0)), CONFIG, tiny.params())
  with pytest.raises(ValueError, match='add up to over 1'):
    Config(drop_voices=0.7, bare=0.4)


@pytest.mark.slow
def test_a_run_ends_with_a_folder_that_loads(data, tmp_path):
  folder = tmp_path / 'base'
  vibevoice.save(folder, CONFIG, tiny.params())
  tiny.processor().tokenizer.save_pretrained(folder)
  c = Config(
    model=str(folder),
    data=(str(data),),
    batch=2,
    accumulate=2,
    length=320,
    frames=64,
    lora=Lora(rank=2, alpha=4.0),
    optim=Optim(lr=1e-3, clip_norm=0.8),
    steps=3,
    dtype='float32',
    remat='none',
    save_every=2,
  )
  train.main(c, tmp_path / 'run')
  metrics = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  assert [m['step'] for m in metrics] == [1, 2, 3]
  for m in metrics:
    assert m['loss'] == pytest.approx(m['ce'] + m['diffusion'], rel=1e-6)
  config, params = vibevoice.load(tmp_path / 'run' / 'model', dtype=None)
  assert config.language == CONFIG.language
  before = tiny.params()
  moved = {
    name: float(np.abs(a - b).max())
    for name, a, b in (
      ('attention', params.language.blocks.attn.q, before.language.blocks.attn.q),
      ('head', params.head.out, before.head.out),
      ('tokenizer', params.acoustic.decoder.head.weight, before.acoustic.decoder.head.weight),
      ('scale', params.scaling.scale, before.scaling.scale),
    )
  }
  assert moved['attention'] > 0 and moved['head'] > 0
  assert moved['tokenizer'] == moved['scale'] == 0
  assert dataclasses.asdict(config.head) == dataclasses.asdict(CONFIG.head)
