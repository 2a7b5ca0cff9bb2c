"""Features of requests: named once and encoded once, by weights of one version, from any number of threads."""

import dataclasses
import threading

import ml_dtypes
import numpy as np
import pytest

from core import decoder
from core.engine import Engine, Request
from core.engine.features import FeatureStore

PLACEHOLDER, WIDTH = 39, 8


class Weights:
  """Encodes content as its first number plus the present weight; counts what it encodes, and can be made to wait."""

  def __init__(self):
    self.weight, self.fails = 0.0, False
    self.started, self.may_end = threading.Event(), threading.Event()
    self.may_end.set()

  def encode(self, payloads, counts):
    """Features [count, WIDTH] of each payload."""
    if self.fails:
      raise OSError('no encoder')
    weight = self.weight
    self.started.set()
    assert self.may_end.wait(20)
    return [np.full((count, WIDTH), payload[0] + weight) for payload, count in zip(payloads, counts)]


class Source:
  """A `Features` source of arrays: 1-D ones are encoded as two tokens, 2-D ones are features already."""

  def __init__(self):
    self.weights = Weights()
    self.store = FeatureStore(self.weights.encode, spare=4)
    self.share, self.release, self.encode = self.store.share, self.store.release, self.store.encode

  def name(self, prompt, media):
    """As of `Features`."""
    names = np.array(prompt, np.int64)
    pieces = [(x, len(x) if x.ndim == 2 else 2) for x in media]
    if (names == PLACEHOLDER).sum() != sum(count for _, count in pieces):
      raise ValueError('placeholders do not match')
    used = [self.store.use(x, count, precomputed=x.ndim == 2) for x, count in pieces]
    names[names == PLACEHOLDER] = np.concatenate([np.zeros(0, np.int64), *used])
    return names

  def embeddings(self, names):
    """As of `Features`."""
    return np.stack(self.store.embeddings(names))

  def update(self, weight):
    """As of `Features`; the decoder has no weights."""
    with self.store.encoder:
      self.weights.weight = weight
      self.store.recompute()

  def warm(self):
    """As of `Features`."""


class Recorder:
  """`Programs` without a device that remembers the embeddings it was given and samples nothing."""

  dtype = np.dtype(ml_dtypes.bfloat16)

  def __init__(self):
    self.given = {}

  def update(self, params):
    """Nothing."""

  def copy(self, pairs):
    """Nothing."""

  def set_tables(self, slot, allowed, seen):
    """Nothing."""

  def decode(self, plan, slots):
    """Nothing is decoded: only the first call, when the engine is made, gets here."""

  def prefill(self, prompts, features):
    """Keeps each embedding by its position."""
    embeddings, given = features
    self.given |= {int(at): embeddings[i] for i, at in enumerate(prompts.positions) if given[i]}


def engine(**options):
  """(engine, its source, what its device was given)."""
  config = dataclasses.replace(decoder.CONFIGS['tiny'], vocab=40, width=WIDTH, max_length=64)
  source, device = Source(), Recorder()
  sizes = {'slots': 2, 'pages': 30, 'page_size': 4, 'segment': 2, 'chunk': 8}
  return Engine(None, config, features=source, programs=device, **sizes, **options), source, device


def test_precomputed_features_of_any_length_enter_where_their_placeholders_are():
  e, source, device = engine()
  r = np.random.default_rng(0)
  first, second = (r.standard_normal((count, WIDTH)).astype(ml_dtypes.bfloat16) for count in (3, 5))
  prompt = [1, *[PLACEHOLDER] * 3, 2, *[PLACEHOLDER] * 5, 3]
  e.submit(Request(prompt, 2, media=[first, second]))
  e._prefill(last=8)
  assert sorted(device.given) == [1, 2, 3, 5, 6, 7, 8, 9]
  got = np.stack([device.given[at] for at in sorted(device.given)])
  assert got.dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(got, np.concatenate([first, second]))
  assert not source.store.encoded


def test_precomputed_features_stay_under_new_weights_and_encoded_ones_do_not():
  e, _, device = engine()
  precomputed = np.full((1, WIDTH), 7, np.float32)
  e.submit(Request([PLACEHOLDER] * 3 + [1], 2, media=[np.array([5.0]), precomputed]))
  e.update(100.0)
  e._prefill(last=8)
  assert [float(device.given[at][0]) for at in range(3)] == [105, 105, 7]


def test_encoding_ahead_is_not_repeated_by_submitting():
  e, source, _ = engine()
  request = Request([PLACEHOLDER, PLACEHOLDER, 1], 2, n=2, media=[np.array([5.0])])
  e.encode(request)
  assert (source.store.encoded, source.store.users) == (1, 0)
  ids = e.submit(request)
  assert (source.store.encoded, source.store.users) == (1, 2)
  for id in ids:
    e.cancel(id)
  assert not source.store.users


@pytest.mark.parametrize('call', ['submit', 'encode'])
def test_media_that_fail_to_encode_keep_no_users(call):
  e, source, _ = engine()
  request = Request([PLACEHOLDER, PLACEHOLDER, 1], 2, media=[np.array([5.0])])
  source.weights.fails = True
  with pytest.raises(OSError, match='no encoder'):
    getattr(e, call)(request)
  assert not source.store.users and e.idle
  source.weights.fails = False
  e.submit(request)
  assert source.store.users == 1


def test_a_full_queue_keeps_no_users():
  e, source, _ = engine(max_queued=1)
  request = Request([PLACEHOLDER, PLACEHOLDER, 1], 2, media=[np.array([5.0])])
  e.submit(request)
  with pytest.raises(RuntimeError, match='expected at most 1'):
    e.submit(request)
  assert source.store.users == 1


def test_features_of_old_weights_do_not_survive_new_ones():
  """The weights change while another thread encodes: it finishes first, and its features are made anew."""
  source = Source()
  weights = source.weights
  weights.may_end.clear()
  names = source.name([PLACEHOLDER, PLACEHOLDER, 1], [np.array([5.0])])
  encoding = threading.Thread(target=source.encode, args=(names,))
  encoding.start()
  assert weights.started.wait(20)
  updating = threading.Thread(target=source.update, args=(100.0,))
  updating.start()
  weights.may_end.set()
  encoding.join(20)
  updating.join(20)
  assert source.embeddings(names[:2])[:, 0].tolist() == [105, 105]


def test_a_store_used_by_many_threads_encodes_each_piece_once_and_forgets_only_unused_ones():
  source = Source()
  errors = []

  def client(seed):
    r = np.random.default_rng(seed)
    try:
      for _ in range(60):
        content = np.array([float(r.integers(6))])
        names = source.name([1, PLACEHOLDER, PLACEHOLDER, 2], [content])
        source.encode(names)
        source.share(names)
        source.release(names)
        assert (source.embeddings(names[1:3]) == content[0]).all()
        source.release(names)
    except Exception as error:  # shown by the main thread
      errors.append(error)

  clients = [threading.Thread(target=client, args=(seed,)) for seed in range(6)]
  for thread in clients:
    thread.start()
  for thread in clients:
    thread.join()
  assert not errors and not source.store.users
  assert len(source.store._items) == 4  # the spare ones
