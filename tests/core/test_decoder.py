"""What must not change a decoder's output: packing, padding, caching, chunking, rematerialisation, adapters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from core import decoder, moe, params
from core.attention import sizes
from core.layers import Yarn
from core.past import Prefix
from core.past import cache as kv
from core.tap import MODEL_SITES, SITES
from core.training import lora

TINY = dataclasses.replace(decoder.CONFIGS['tiny'], vocab=50, width=32, mlp_width=48, head_dim=12)
CONFIGS = {
  'dense': TINY,
  'experts, window, sinks': dataclasses.replace(
    TINY,
    qk_norm=False,
    qkv_bias=True,
    out_bias=True,
    sinks=True,
    windows=(4, None),
    rope_scaling=Yarn(4.0, 16),
    moe=moe.Config(experts=4, top_k=2, width=20, activation='clamped', bias=True),
  ),
}
TOKENS = np.random.default_rng(0).integers(0, 50, (2, 14)).astype(np.int32)
TIGHT = 2e-5


def drawn(config):
  """Parameters none of which is at its initial zero or one."""
  leaves, tree = jax.tree.flatten(decoder.init(jax.random.key(1), config))
  r = np.random.default_rng(2)
  return jax.tree.unflatten(tree, [w + (0.2 * r.standard_normal(w.shape)).astype(np.float32) for w in leaves])


@pytest.fixture(scope='module', params=CONFIGS)
def case(request):
  config = CONFIGS[request.param]
  weights = drawn(config)
  return config, weights, np.asarray(apply(weights, config, TOKENS).logits)


@functools.partial(jax.jit, static_argnames=('config', 'slots', 'edit', 'keep'))
def apply(weights, config, tokens, *, slots=None, cache=None, **options):
  """`decoder.apply` compiled whole; `slots` starts a cache."""
  return decoder.apply(weights, config, tokens, cache=slots if cache is None else cache, **options)


def close(a, b, tolerance=TIGHT):
  assert np.abs(np.asarray(a) - np.asarray(b)).max() <= tolerance * np.abs(np.asarray(b)).max()


def test_packed_equals_separate(case):
  config, weights, want = case
  row = np.concatenate([TOKENS[0, :6], TOKENS[1, :9], [0, 0]])[None]
  at = np.array([[*range(6), *range(9), -1, -1]], np.int32)
  segments = np.array([[1] * 6 + [2] * 9 + [0, 0]], np.int32)
  got = apply(weights, config, row, positions=at, segments=segments).logits[0]
  close(got[:6], want[0, :6])
  close(got[6:15], want[1, :9])


@pytest.mark.parametrize('side', ['left', 'right'])
def test_padded_equals_unpadded(case, side):
  config, weights, want = case
  pad = ((0, 0), (5, 0) if side == 'left' else (0, 5))
  at = np.pad(np.tile(np.arange(14), (2, 1)), pad, constant_values=-1)
  out = apply(weights, config, np.pad(TOKENS, pad, constant_values=7), positions=at).logits
  close(out[at >= 0].reshape(want.shape), want)
  assert np.isfinite(out).all()


@pytest.mark.slow
@pytest.mark.parametrize('unstacked', [False, True])
def test_prefill_and_decode_equal_the_full_pass(case, unstacked):
  config, weights, want = case
  if unstacked:
    weights = weights.replace(blocks=params.unstack(weights.blocks))
    close(apply(weights, config, TOKENS).logits, want)
  out = apply(weights, config, TOKENS[:, :7], slots=14)
  pieces = [out.logits]
  for start, stop in ((7, 12), (12, 13), (13, 14)):
    out = apply(weights, config, TOKENS[:, start:stop], cache=out.cache)
    pieces.append(out.logits)
  close(np.concatenate(pieces, 1), want)
  assert int(out.cache.length) == 14 and (np.asarray(out.cache.positions) == np.arange(14)).all()


@pytest.mark.slow
@pytest.mark.parametrize('unstacked', [False, True])
def test_branches_from_a_prefix_equal_whole_rows(case, unstacked):
  config, weights, _ = case
  prompts = np.repeat(TOKENS[:, :9], 2, 0)
  whole = np.concatenate([prompts, np.random.default_rng(3).integers(0, 50, (4, 5))], 1).astype(np.int32)
  want = apply(weights, config, whole).logits[:, 9:]
  if unstacked:
    weights = weights.replace(blocks=params.unstack(weights.blocks))
  prefix = Prefix(apply(weights, config, TOKENS[:, :9], slots=9).cache)
  close(apply(weights, config, whole[:, 9:], cache=prefix).logits, want)
  with pytest.raises(ValueError, match='prefix of 2 rows takes a multiple'):
    apply(weights, config, whole[:3, 9:], cache=prefix)


@pytest.mark.slow
def test_ragged_rows_in_a_cache_equal_their_own(case):
  """Right-padded prompts of two lengths, decoded on from their own positions."""
  config, weights, want = case
  lengths = np.array([4, 8])
  at = np.where(np.arange(8) < lengths[:, None], np.arange(8), -1)
  out = apply(weights, config, TOKENS[:, :8], positions=at, slots=12)
  for k in range(3):
    now = lengths + k
    out = apply(weights, config, TOKENS[np.arange(2), now][:, None], positions=now[:, None], cache=out.cache)
    close(out.logits[:, 0], want[np.arange(2), now])


def test_chunked_attention_equals_whole(case, monkeypatch):
  config, weights, want = case
  monkeypatch.setattr(sizes, 'QUERY_BLOCK', 4)
  close(jax.jit(lambda w: decoder.apply(w, config, TOKENS).logits)(weights), want)


def reach(config, weights):
  """Bool [14, 14]: whose embedding each position's output depends on, by gradients."""
  x = decoder.embed(weights, TOKENS[:1])

  @jax.jit
  def gradients(x):
    _, pull = jax.vjp(lambda x: decoder.forward(weights, config, x).hidden[0, :, 0], x)
    return jax.lax.map(lambda row: pull(row)[0][0], jnp.eye(14))

  return np.abs(np.asarray(gradients(x))).max(-1) > 0


@pytest.mark.slow
def test_no_token_sees_a_later_one(case):
  config, weights, _ = case
  seen = reach(config, weights)
  assert not np.triu(seen, 1).any()
  assert np.tril(seen).sum() == 14 * 15 / 2, 'the last layer sees everything before'


def test_a_window_reaches_exactly_as_far():
  config = dataclasses.replace(TINY, depth=1, windows=(4,))
  back = np.subtract.outer(np.arange(14), np.arange(14))
  assert (reach(config, drawn(config)) == ((back >= 0) & (back < 4))).all()


def loss(weights, config, **options):
  hidden = decoder.forward(weights, config, decoder.embed(weights, TOKENS), **options).hidden
  return -decoder.log_probs(weights, config, hidden, np.roll(TOKENS, -1, 1))[0].mean()


@pytest.mark.slow
def test_remat_policies_are_equal():
  config, weights = TINY, drawn(TINY)
  value, grads = jax.jit(jax.value_and_grad(lambda w: loss(w, config)))(weights)
  for policy in ('dots', 'full'):
    again, other = jax.jit(jax.value_and_grad(lambda w, p=policy: loss(w, config, remat_policy=p)))(weights)
    assert abs(value - again) <= 1e-6
    largest = max(np.abs(g).max() for g in jax.tree.leaves(grads))
    assert all(np.abs(a - b).max() <= 1e-5 * largest for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other)))
  with pytest.raises(ValueError, match='everything'):
    loss(weights, config, remat_policy='everything')


@pytest.mark.parametrize('temperature', [0.6, 0.7, 0.8, 0.9])
@pytest.mark.parametrize('chunk', [5, 1024])
def test_a_temperature_divides_float32_logits(case, temperature, chunk):
  config, weights, _ = case
  weights = params.cast(weights, 'bfloat16')
  hidden = jax.random.normal(jax.random.key(0), (*TOKENS.shape, config.width), jnp.bfloat16)
  scaled = np.asarray(decoder.logits(weights, config, hidden)) / np.float32(temperature)
  want = np.take_along_axis(np.asarray(jax.nn.log_softmax(scaled)), TOKENS[..., None], -1)[..., 0]
  got, _ = decoder.log_probs(weights, config, hidden, TOKENS, temperature=temperature, chunk=chunk)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_log_probs_in_chunks_equal_whole(case):
  config, weights, want = case
  hidden = jax.jit(lambda w: decoder.forward(w, config, decoder.embed(w, TOKENS)).hidden)(weights)
  logp = jax.nn.log_softmax(want, -1)
  entropy = -(np.exp(logp) * logp).sum(-1)
  for chunk in (4, 14, 1024):
    got, spread = decoder.log_probs(weights, config, hidden, TOKENS, chunk=chunk)
    np.testing.assert_allclose(got, np.take_along_axis(np.asarray(logp), TOKENS[..., None], -1)[..., 0], atol=1e-4)
    np.testing.assert_allclose(spread, entropy, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('tied', [False, True])
def test_kl_in_chunks_equals_float64_and_has_its_gradient(tied):
  """Against float64 over the whole vocabulary; d KL / d student logits is softmax(student) - softmax(reference)."""
  config = dataclasses.replace(TINY, tied=tied)
  student, teacher = (decoder.init(jax.random.key(seed), config) for seed in (0, 1))
  hidden, given = jax.random.normal(jax.random.key(2), (2, *TOKENS.shape, config.width))

  def heads(weights, states):
    head = weights.embed.T if tied else weights.head
    return np.asarray(states, np.float64) @ np.asarray(head, np.float64)

  logp = log_softmax(heads(student, hidden), axis=-1)
  want = log_softmax(heads(teacher, given), axis=-1)
  divergence = (np.exp(want) * (want - logp)).sum(-1)

  def mean(student, hidden, teacher, given, chunk):
    values = decoder.kl(student, config, hidden, reference=teacher, reference_hidden=given, chunk=chunk)
    return values.mean(), values

  moved = (np.exp(logp) - np.exp(want)) / divergence.size
  head = np.asarray(student.embed.T if tied else student.head, np.float64)
  for chunk in (5, 1024):
    grads, values = jax.grad(mean, argnums=(0, 1, 2, 3), has_aux=True)(student, hidden, teacher, given, chunk)
    np.testing.assert_allclose(values, divergence, rtol=1e-4)
    np.testing.assert_allclose(grads[1], moved @ head.T, atol=1e-6)
    by_head = np.einsum('btd,btv->dv', np.asarray(hidden, np.float64), moved)
    np.testing.assert_allclose(grads[0].embed.T if tied else grads[0].head, by_head, atol=1e-5)
    assert not any(np.abs(g).max() for g in jax.tree.leaves(grads[2:]))
  same, _ = mean(teacher, given, teacher, given, 5)
  assert abs(same) < 1e-6


@pytest.mark.slow
def test_lora_starts_as_its_base_and_trains_alone():
  config = TINY
  weights = drawn(config)
  adapted = lora.adapt(jax.random.key(3), weights, decoder.spec(config), r'blocks\.(attn\.[qkvo]|mlp\..*)', rank=3)
  np.testing.assert_array_equal(apply(adapted, config, TOKENS).logits, apply(weights, config, TOKENS).logits)
  is_lora = lambda w: isinstance(w, params.Lora)
  adapters = [w for w in jax.tree.leaves(adapted, is_leaf=is_lora) if is_lora(w)]
  assert len(adapters) == 7
  leaves, tree = jax.tree.flatten(adapted, is_leaf=is_lora)

  def with_adapters(ab):
    ab = iter(ab)
    return jax.tree.unflatten(tree, [w.replace(**next(ab)) if is_lora(w) else w for w in leaves])

  grads = jax.jit(jax.grad(lambda ab: loss(with_adapters(ab), config)))([{'a': w.a, 'b': w.b} for w in adapters])
  for g in grads:  # b is zero, so only b learns at first
    assert (g['a'] == 0).all() and np.abs(g['b']).max() > 0
  moved = with_adapters([{'a': w.a, 'b': w.b + 0.1} for w in adapters])
  close(apply(moved, config, TOKENS).logits, apply(params.fold(moved), config, TOKENS).logits, 1e-4)


@pytest.mark.slow
def test_lora_dropout_zeroes_inputs_of_adapters_alone():
  """By hand: y = x w + alpha / rank (x m / (1 - p)) a b, with a mask m for each weight and layer."""
  rng = np.random.default_rng(0)
  w, a, b = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 50, 4), (2, 50, 3), (2, 3, 4)))
  x = jnp.asarray(rng.standard_normal((1, 6, 50)), jnp.float32)
  adapted = lora.with_dropout({'q': params.Lora(w, a, b, 6.0), 'k': params.Lora(w, a, b, 6.0)}, jax.random.key(1), 0.4)
  masks = []
  for adapter in adapted.values():
    for layer in range(2):
      one = jax.tree.map(lambda leaf: leaf[layer], adapter)  # noqa: B023
      mask = jax.random.bernoulli(one.keys, 0.6, x.shape)
      want = x @ w[layer] + 2 * (x * mask / 0.6) @ a[layer] @ b[layer]
      np.testing.assert_allclose(params.einsum('btd,dn->btn', x, one), want, atol=1e-4)
      masks.append(np.asarray(mask))
  assert 0.5 < np.mean(masks) < 0.7
  assert all((masks[i] != masks[j]).any() for i in range(4) for j in range(i))
  np.testing.assert_array_equal(params.dense(adapted['q']), params.dense(params.Lora(w, a, b, 6.0)))
  with pytest.raises(ValueError, match='dropout=1'):
    lora.with_dropout(adapted, jax.random.key(1), 1)


def test_lora_refuses_what_it_cannot_adapt():
  config = CONFIGS['experts, window, sinks']
  spec, weights = decoder.spec(config), drawn(config)
  for pattern, word in ((r'blocks\.mlp\.gate', 'dense matrix'), (r'norm', 'dense matrix'), (r'nothing', 'no weight')):
    with pytest.raises(ValueError, match=word):
      lora.adapt(jax.random.key(0), weights, spec, pattern, rank=2)


@pytest.mark.slow
def test_int8_stays_within_its_bound():
  weights = drawn(TINY)
  quantised = params.map_weights(lambda name, w: params.to_int8(w), weights, r'blocks\.(attn\.[qkvo]|mlp\..*)|embed')
  for name, w in (('gate', weights.blocks.mlp.gate), ('q', weights.blocks.attn.q), ('embed', weights.embed)):
    q = params.to_int8(w)
    size = w.shape[-1] // q.scale.shape[-1]
    bound = np.abs(w.reshape(*w.shape[:-1], -1, size)).max(-1).repeat(size, -1).reshape(w.shape) / 254
    assert (np.abs(params.dense(q) - w) <= bound * (1 + 1e-5)).all(), name
  got = apply(quantised.replace(embed=weights.embed), TINY, TOKENS).logits
  want = apply(weights, TINY, TOKENS).logits
  assert np.linalg.norm(got - want) <= 0.03 * np.linalg.norm(want)
  assert (params.dense(params.to_int8(jnp.zeros((2, 4)))) == 0).all()


def test_taps_keep_every_site(case):
  config, weights, want = case
  out = apply(weights, config, TOKENS, keep=MODEL_SITES)
  k = out.kept
  assert k.keys() == set(MODEL_SITES)
  assert k['embed'].shape == k['final'].shape == (2, 14, config.width)
  assert all(k[s].shape == (config.depth, 2, 14, config.width) for s in SITES if s.startswith(('resid', 'attn', 'mlp')))
  assert k['z'].shape == k['q'].shape == (config.depth, 2, 14, config.heads, config.head_dim)
  assert k['pattern'].shape == k['scores'].shape == (config.depth, 2, config.heads, 14, 14)
  np.testing.assert_array_equal(k['embed'], k['resid_in'][0])
  close(k['resid_in'] + k['attn_out'] + k['mlp_out'], k['resid_out'])
  np.testing.assert_array_equal(k['resid_in'][1:], k['resid_out'][:-1])
  close(out.logits, want)
  with pytest.raises(ValueError, match='attn_weights'):
    apply(weights, config, TOKENS, keep=('attn_weights',))


@pytest.mark.parametrize('unstacked', [False, True])
def test_an_edit_changes_its_layer_and_those_after(unstacked):
  config = dataclasses.replace(TINY, depth=4)
  weights = drawn(config)
  if unstacked:
    weights = weights.replace(blocks=params.unstack(weights.blocks))
  plain = apply(weights, config, TOKENS, keep=('resid_out',))

  def edit(site, layer, x):
    return jnp.where(layer == 2, 0.5 * x, x) if site == 'mlp_out' else x

  edited = apply(weights, config, TOKENS, edit=edit, keep=('resid_out', 'mlp_out'))
  gap = np.abs(edited.kept['resid_out'] - plain.kept['resid_out']).max((1, 2, 3))
  assert (gap[:2] == 0).all() and (gap[2:] > 1e-3).all()


def test_impossible_combinations_are_refused():
  weights = drawn(TINY)
  with pytest.raises(ValueError, match='segments and cache'):
    apply(weights, TINY, TOKENS, segments=np.ones_like(TOKENS), slots=20)
  with pytest.raises(ValueError, match='segments need positions'):
    apply(weights, TINY, TOKENS, segments=np.ones_like(TOKENS))
  with pytest.raises(ValueError, match='5 slots'):
    apply(weights, TINY, TOKENS, cache=kv.new(TINY, 2, 5, jnp.float32))
  for change, word in (({'heads': 3}, 'heads=3'), ({'windows': (4, None, None)}, 'depth=2')):
    with pytest.raises(ValueError, match=word):
      dataclasses.replace(TINY, **change)


def test_a_new_weight_redraws_no_other():
  one = decoder.init(jax.random.key(0), TINY)
  two = decoder.init(jax.random.key(0), dataclasses.replace(TINY, tied=False, qkv_bias=True))
  assert (one.blocks.mlp.gate == two.blocks.mlp.gate).all() and (one.embed == two.embed).all()
  assert not (one.blocks.mlp.gate == one.blocks.mlp.up).all()


@pytest.mark.slow
def test_a_decoder_cut_in_two_computes_the_same():
  config = CONFIGS['dense']
  whole = drawn(config)
  lower_config = dataclasses.replace(config, depth=1, final_norm=False, tied=True)
  upper_config = dataclasses.replace(config, depth=1, embedding=False, tied=True)
  lower = decoder.Params(whole.embed, jax.tree.map(lambda w: w[:1], whole.blocks), None)
  upper = decoder.Params(None, jax.tree.map(lambda w: w[1:], whole.blocks), whole.norm)
  assert jax.tree.structure(lower) == jax.tree.structure(decoder.spec(lower_config))
  assert jax.tree.structure(upper) == jax.tree.structure(decoder.spec(upper_config))

  x = decoder.embed(whole, TOKENS)
  between = decoder.forward(lower, lower_config, x).hidden
  got = decoder.forward(upper, upper_config, between).hidden
  np.testing.assert_allclose(got, decoder.forward(whole, config, x).hidden, atol=TIGHT)
  with pytest.raises(ValueError, match='hidden states only'):
    decoder.logits(upper, upper_config, got)
