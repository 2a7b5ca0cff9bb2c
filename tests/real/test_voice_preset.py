"""A published voice preset of Realtime: values that the real model computed, and so a check of our rotary positions."""

import dataclasses
import itertools
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vibevoice
from core.files.store import CheckpointError
from core.layers import rope_tables, rotate
from core.past.rows import grown
from vibevoice import realtime
from vibevoice.inputs import presets

CONFIG = vibevoice.CONFIGS['Realtime-0.5B']
PRESET = 'real/en-Mike_man.pt'
pytestmark = pytest.mark.real


@pytest.fixture(scope='module')
def preset(real_folder):
  return presets.load(real_folder(PRESET), CONFIG, dtype=jnp.float32)


def test_the_four_streams(preset):
  lengths = {name: int(reading.cache.length) for name, reading in vars(preset).items()}
  assert lengths == {'lower': 49, 'upper': 148, 'negative_lower': 1, 'negative_upper': 1}
  assert preset.upper.cache.k.shape == (20, 1, 2, 148, 64)
  size = np.sqrt(np.mean(np.square(preset.lower.hidden[0]), -1))
  assert size[0] == pytest.approx(58.5, abs=0.1)  # the first token takes what attention has to spare
  assert size.min() == pytest.approx(0.26, abs=0.01)


def test_equal_tokens_differ_by_rotation_alone(preset):
  """In layer 0 a key depends on its token and position only, and a value on its token."""
  keys, values = (np.asarray(x[0, 0]) for x in (preset.lower.cache.k, preset.lower.cache.v))
  pairs = [(a, b) for a, b in itertools.combinations(range(49), 2) if np.array_equal(values[:, a], values[:, b])]
  assert len(pairs) == 22

  def errors(theta):
    first, second = np.array(pairs).T
    cos, sin = rope_tables(jnp.asarray(second - first)[None], 64, theta)
    got = np.asarray(rotate(keys[:, first], cos, sin))
    want = keys[:, second]
    return np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)

  right = errors(CONFIG.lower.rope_theta)
  assert np.median(right) <= 1e-3 and right.max() <= 3e-3
  assert np.median(errors(1e5)) > 0.03 and np.median(errors(1e7)) > 0.03


def test_a_model_of_its_width_starts_from_it(preset):
  """Feed-forward, vocabulary and codec are thin; heads, layers and width are those that the preset has."""
  thin = {'mlp_width': 32, 'vocab': 300}
  tiny = vibevoice.CONFIGS['tiny-realtime']
  config = dataclasses.replace(
    CONFIG,
    lower=dataclasses.replace(CONFIG.lower, **thin),
    upper=dataclasses.replace(CONFIG.upper, **thin),
    acoustic=dataclasses.replace(tiny.acoustic, latent=64),
    head=dataclasses.replace(CONFIG.head, depth=1, mlp_ratio=1),
    negative=260,
  )
  params = jax.jit(lambda: realtime.init(jax.random.key(0), config))()
  lower = grown(preset.lower.cache, 64)
  upper = grown(preset.upper.cache, 192)
  text = realtime.lower(params, config, jnp.array([[5, 6, 7, 8, 9]]), cache=lower)
  told = realtime.upper_text(params, config, text.hidden, cache=upper)
  frame = realtime.upper_speech(params, config, jnp.ones((1, 1, 64)), cache=told.cache)
  assert int(frame.cache.positions.max()) == 148 + 5
  assert np.isfinite(frame.hidden).all()
  assert 0 < float(realtime.stop_probability(params, frame.hidden)[0, 0]) < 1

  deaf = upper.replace(positions=jnp.full_like(upper.positions, -1), length=jnp.int32(148))
  unheard = realtime.upper_text(params, config, text.hidden, positions=jnp.arange(148, 153)[None], cache=deaf)
  assert np.abs(unheard.hidden - told.hidden).max() > 1e-2


def test_a_file_that_would_run_something_is_refused(tmp_path, real_folder):
  class Harmful:
    def __reduce__(self):
      return (open, (str(tmp_path / 'ran'), 'w'))

  path = tmp_path / 'voice.pt'
  with zipfile.ZipFile(real_folder(PRESET)) as real, zipfile.ZipFile(path, 'w') as archive:
    for member in real.infolist():
      is_pickle = member.filename.endswith('/data.pkl')
      archive.writestr(member, pickle.dumps({'lm': Harmful()}, 2) if is_pickle else real.read(member))
  with pytest.raises(CheckpointError, match=r'voice\.pt: names the class .*open'):
    presets.load(path, CONFIG)
  assert not (tmp_path / 'ran').exists()
