"""Sets of components as data: each row lacks its own, and one program decodes them all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.engine.sampling import Sampling
from interp.loops import Component, components, without
from interp.loops.clips import Clip
from interp.loops.outcomes import Outcomes, ended
from interp.sites import at, edits, zero
from interp.whisper import decoder
from interp.whisper.decoding.prefill import pack
from interp.whisper.decoding.rules import of
from interp.whisper.decoding.sample import sample
from interp.whisper.decoding.window import Recogniser, audio_keys
from interp.whisper.options import Options
from tests.interp.whisper import tiny

SETS = ((), (Component('cross_z', 1, 2),), (Component('z', 0, 3), Component('mlp_out', 2)), (Component('attn_out', 1),))
PLANTED = Component('cross_z', 1, 2)


def test_every_component_is_listed_once():
  every = components(tiny.CONFIG)
  assert len(set(every)) == len(every) == 2 * 3 * 4 + 3 * 3


@pytest.mark.slow
def test_each_row_lacks_its_own_components():
  c, p = tiny.CONFIG, tiny.params()
  keys = decoder.cross_keys(p.decoder, jnp.asarray(np.random.default_rng(0).normal(size=(1, 20, 32)), jnp.float32))
  tokens = jnp.asarray([[257, 258, 40, 41, 42]] * len(SETS), jnp.int32)
  run = jax.jit(lambda edit: decoder.forward(p.decoder, c, tokens, keys, edit=edit).hidden)
  got = run(without(c, SETS))
  for row, chosen in enumerate(SETS):
    changes = {}
    for part in chosen:
      change = zero if part.head is None else at(zero, heads=(part.head,))
      changes[part.site, part.layer] = change
    want = decoder.forward(p.decoder, c, tokens[:1], keys, edit=edits(changes, sites=decoder.SITES)).hidden
    np.testing.assert_allclose(got[row], want[0], atol=2e-5)
  assert np.abs(got[1] - got[0]).max() > 1e-3


@pytest.mark.slow
def test_other_sets_compile_nothing():
  c, p, processor = tiny.CONFIG, tiny.params(), tiny.processor()
  keys = audio_keys(p, c, tiny.mel(1))
  prompt = pack([processor.prompt(language='en', timestamps=False)] * 2, processor.ids.sot)
  rules = of(processor, c.vocab, timestamps=False)
  before = sample._cache_size()
  for sets in (((), (PLANTED,)), ((PLANTED,), (Component('z', 0, 1),))):
    edit = without(c, sets)
    decoded = sample(p.decoder, c, keys, prompt, rules, Sampling.of(2), new=4, no_speech=0, edit=edit)
    assert decoded.tokens.shape == (2, 4)
  assert sample._cache_size() == before + 1


def planted():
  """A model that would end at once, but for one head of cross-attention that makes it say one token for ever."""
  c, p = tiny.CONFIG, tiny.params()
  d = p.decoder
  blocks = jax.tree.map(jnp.zeros_like, d.blocks)
  ends, says = d.embed[256], d.embed[ord('a')]
  attn = blocks.cross.replace(
    v_bias=blocks.cross.v_bias.at[1, 2, 0].set(1.0), o=blocks.cross.o.at[1, 2, 0].set(200 * says)
  )
  blocks = blocks.replace(cross=attn, down_bias=blocks.down_bias.at[2].set(20 * ends))
  norm = d.norm.replace(scale=jnp.ones(c.width), bias=jnp.zeros(c.width))
  return c, p.replace(decoder=d.replace(blocks=blocks, norm=norm))


@pytest.mark.slow
def test_a_planted_looping_head_is_found(tmp_path):
  c, p = planted()
  options = Options(timestamps=False, previous=False, temperatures=(0.0,), tokens=30)
  outcomes = Outcomes(Recogniser(p, c, tiny.processor(), options), None, tmp_path, 'planted')
  clip = Clip('hiss', 0, 'unchanged', np.random.default_rng(0).normal(size=c.samples).astype(np.float32))
  every = [(part,) for part in components(c)]
  (said,) = outcomes(clip, [()])
  assert said.loops and said.coverage == 1
  found = [parts[0] for parts, end in zip(every, ended(outcomes, [clip], every)[:, 0]) if end]
  assert found == [PLANTED, Component('cross_attn_out', 1)]
  again = Outcomes(None, None, tmp_path, 'planted')  # from the file: nothing is decoded
  assert ended(again, [clip], every)[:, 0].sum() == 2
