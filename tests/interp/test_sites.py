"""Sites show and change what they name, cost nothing unasked, and edits hold while a model generates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import decoder, encoder, params
from core.engine import generate
from core.engine.sampling import Sampling
from core.tap import MODEL_SITES, SITES, Keep
from interp.sites import at, blend, edits, mean, replace, zero
from tests.interp.tiny import CONFIG, OTHER, TOKENS, WEIGHTS, apply


def unchanged(site, layer, x):
  return x


def program(**options) -> str:
  return str(jax.make_jaxpr(lambda tokens: decoder.apply(WEIGHTS, CONFIG, tokens, **options).logits)(TOKENS))


def test_sites_that_nobody_asks_for_leave_the_program_alone():
  assert program() == program(edit=unchanged)


def test_replacing_a_site_by_itself_changes_no_bit():
  # One program for all sites, the site as data: programs of their own may fuse, and so round, differently.
  @jax.jit
  def run(values, chosen):
    def edit(site, layer, x):
      here = (MODEL_SITES.index(site) == chosen) & (layer == 2) | (site == 'embed')
      value = values[site] if site in ('embed', 'final') else values[site][layer]
      return jnp.where(here, value, x)

    return decoder.apply(WEIGHTS, CONFIG, TOKENS, edit=edit, keep=MODEL_SITES)

  values = jax.tree.map(jnp.zeros_like, apply(TOKENS, keep=MODEL_SITES).kept)
  values['embed'] = decoder.embed(WEIGHTS, TOKENS)
  plain = run(values, -1)
  for i, site in enumerate(MODEL_SITES):
    np.testing.assert_array_equal(run(plain.kept, i).logits, plain.logits, err_msg=site)
    assert (run(values, i).logits != plain.logits).any() or site == 'embed'


@pytest.mark.parametrize('site', ['embed', 'resid_in', 'resid_out', 'final'])
def test_the_whole_stream_of_another_run_gives_that_run(site):
  want = apply(OTHER, keep=(site,))
  layer = None if site in ('embed', 'final') else 2
  value = want.kept[site] if layer is None else want.kept[site][layer]
  got = apply(TOKENS, edit=edits({(site, layer): replace(value)}))
  np.testing.assert_allclose(got.logits, want.logits, atol=1e-5)


def test_attention_is_its_pattern_over_its_values():
  kept = apply(TOKENS, keep=SITES).kept
  np.testing.assert_allclose(jax.nn.softmax(kept['scores'], -1), kept['pattern'], atol=1e-6)
  values = np.repeat(kept['v'], CONFIG.heads // CONFIG.kv_heads, 3)
  np.testing.assert_allclose(np.einsum('lbnts,lbsnh->lbtnh', kept['pattern'], values), kept['z'], atol=1e-5)
  keys = np.repeat(kept['k'], CONFIG.heads // CONFIG.kv_heads, 3)
  scores = np.einsum('lbtnh,lbsnh->lbnts', kept['q'], keys) / 2
  causal = np.tril(np.ones((6, 6), bool))
  np.testing.assert_allclose(scores[..., causal], kept['scores'][..., causal], atol=1e-4)


def test_a_kept_choice_is_a_slice_of_all():
  every = apply(TOKENS, keep=SITES).kept
  keep = tuple(Keep(s, layers=(2, 0)) for s in SITES)
  for blocks in (WEIGHTS.blocks, params.unstack(WEIGHTS.blocks)):
    run = jax.jit(lambda p: decoder.apply(p, CONFIG, TOKENS, keep=keep).kept)
    some = run(WEIGHTS.replace(blocks=blocks))
    for site in SITES:
      np.testing.assert_allclose(some[site], every[site][jnp.array([2, 0])], atol=1e-5)
  some = apply(TOKENS, keep=(Keep('pattern', positions=(5,)), Keep('z', layers=(1,), positions=(0, 5)))).kept
  np.testing.assert_allclose(some['pattern'], every['pattern'][:, :, :, 5:], atol=1e-6)
  np.testing.assert_allclose(some['z'], every['z'][1:2, :, jnp.array([0, 5])], atol=1e-6)


def test_names_that_no_model_has_are_refused():
  for key, word in ((('atn_out', 0), 'atn_out'), (('z', 3), '0 to 2'), (('z', -1), '-1'), (('final', 0), 'None')):
    with pytest.raises(ValueError, match=word):
      edits({key: zero}, depth=3)
  for keep, word in (
    ('atn_out', 'atn_out'),
    (Keep('z', layers=(3,)), r'0\.\.2'),
    (Keep('z', positions=(6,)), r'0\.\.5'),
  ):
    with pytest.raises(ValueError, match=word):
      apply(TOKENS, keep=(keep,))
  with pytest.raises(ValueError, match='kept whole'):
    Keep('k', positions=(0,))
  with pytest.raises(ValueError, match='heads'):
    apply(TOKENS, edit=edits({('resid_in', 0): at(zero, heads=(1,))}))


def shape_of(**options):
  return jax.eval_shape(functools.partial(decoder.apply, config=CONFIG, **options), WEIGHTS, tokens=TOKENS)


@pytest.mark.parametrize('asks', [{'keep': ('pattern',)}, {'edit': edits({('scores', 1): zero})}])
def test_attention_without_a_pattern_says_so(asks):
  with pytest.raises(ValueError, match='pattern'):
    shape_of(attention='chunked', **asks)
  shape_of(attention='chunked', keep=('z',), edit=edits({('z', 1): zero}))


def test_changes_compute_what_they_say():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 5)))
  np.testing.assert_allclose(mean(x)[1], x.mean(0), rtol=1e-6)
  np.testing.assert_allclose(blend(2 * x, 0.25)(x), 1.25 * x, rtol=1e-6)
  changed = np.asarray(at(zero, positions=(1,), heads=(0, 3))(x))
  assert (changed[:, 1, [0, 3]] == 0).all() and (changed != 0).sum() == x.size - 2 * 2 * 5


def test_an_encoder_shows_heads_and_patterns():
  config = encoder.Config(
    width=16, depth=2, heads=2, head_dim=8, mlp_width=24, norm='layer', norm_place='pre', norm_eps=1e-5
  )
  blocks = params.init(jax.random.key(0), encoder.spec(config))
  x = jax.random.normal(jax.random.key(1), (2, 5, 16))
  run = jax.jit(functools.partial(encoder.apply, config=config), static_argnames=('keep', 'edit'))
  _, kept = run(blocks, x=x, keep=SITES)
  np.testing.assert_allclose(np.einsum('lbnts,lbsnh->lbtnh', kept['pattern'], kept['v']), kept['z'], atol=1e-5)
  edit = edits({('pattern', 1): zero})
  _, kept = run(blocks, x=x, keep=('z',), edit=edit)
  assert (kept['z'][1] == 0).all() and (kept['z'][0] != 0).all()


@pytest.mark.slow
def test_an_edit_holds_while_a_model_generates():
  double = functools.partial(jnp.multiply, -2.0)
  edit = edits({('z', 0): double, ('v', 1): double, ('pattern', 2): double, ('resid_out', 1): double})
  places = np.broadcast_to(np.arange(6), (2, 6))
  options = {'max_new': 5, 'sampling': Sampling.of(2)}
  cached = generate.run(WEIGHTS, CONFIG, TOKENS, places, **options, edit=edit).tokens[:, :5]
  plain = generate.run(WEIGHTS, CONFIG, TOKENS, places, **options).tokens[:, :5]
  assert (cached != plain).any()
  recomputed = apply(np.concatenate([TOKENS, cached], 1), edit=edit).logits
  np.testing.assert_array_equal(cached, recomputed[:, 5:-1].argmax(-1))
