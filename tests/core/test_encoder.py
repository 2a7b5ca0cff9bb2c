"""One encoder block is InternViT's, BERT's, Whisper's, CLIP's and T5's, by configuration alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import encoder, params
from core.tap import SITES

TINY = encoder.Config(
  width=24, depth=2, heads=3, head_dim=6, mlp_width=20, norm='layer', norm_place='pre', norm_eps=1e-5
)
X = np.random.default_rng(0).standard_normal((2, 7, 24)).astype(np.float32)


def drawn(config):
  """Blocks none of whose weights is at its initial zero or one."""
  leaves, tree = jax.tree.flatten(params.init(jax.random.key(0), encoder.spec(config)))
  r = np.random.default_rng(1)
  return jax.tree.unflatten(tree, [w + (0.2 * r.standard_normal(w.shape)).astype(np.float32) for w in leaves])


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('place', ['pre', 'post'])
def test_padding_changes_no_token(causal, place):
  config = dataclasses.replace(TINY, causal=causal, norm_place=place, qk_norm_eps=1e-6, layer_scale=0.5)
  blocks = drawn(config)
  want, _ = encoder.apply(blocks, config, X)
  padded = np.pad(X, ((0, 0), (0, 5), (0, 0)), constant_values=9)
  mask = np.broadcast_to(np.arange(12) < 7, (2, 12))
  got, _ = encoder.apply(blocks, config, padded, mask=mask)
  np.testing.assert_allclose(got[:, :7], want, atol=2e-5)
  assert np.isfinite(got).all()


@pytest.mark.parametrize('causal', [False, True])
def test_a_token_sees_all_others_unless_causal(causal):
  config = dataclasses.replace(TINY, causal=causal)
  blocks = drawn(config)
  gradient = jax.jacrev(lambda x: encoder.apply(blocks, config, x[None])[0][0, :, 0])(X[0])
  seen = np.abs(np.asarray(gradient)).max(-1) > 0
  assert (seen == (np.tril(np.ones((7, 7), bool)) if causal else np.ones((7, 7), bool))).all()


def test_taps_add_up_and_unstacked_blocks_agree():
  blocks = drawn(TINY)
  x, kept = encoder.apply(blocks, TINY, X, keep=tuple(f'tower.{s}' for s in SITES), prefix='tower.')
  kept = {site.removeprefix('tower.'): value for site, value in kept.items()}
  np.testing.assert_allclose(kept['resid_in'] + kept['attn_out'] + kept['mlp_out'], kept['resid_out'], atol=1e-5)
  unstacked, _ = encoder.apply(params.unstack(blocks), TINY, X)
  np.testing.assert_allclose(unstacked, x, atol=1e-5)


def test_unknown_choices_are_refused():
  for change in ({'norm': 'batch'}, {'norm_place': 'mid'}, {'activation': 'relu6'}, {'biases': ('q', 'x')}):
    (name,) = change
    with pytest.raises(ValueError, match=name):
      dataclasses.replace(TINY, **change)


# Against torch: tiny models of transformers with every weight redrawn.


def redrawn(net, seed=0):
  """The network with every weight drawn anew, so none is at its initial zero or one."""
  import torch

  torch.manual_seed(seed)
  with torch.no_grad():
    for p in net.parameters():
      p.copy_(0.3 * torch.randn_like(p) + (1 if p.ndim == 1 else 0) * 0.5)
  return net.eval()


class Tensors:
  """Weights of one torch module's layers in our layout, stacked over `layers`."""

  def __init__(self, net, layers: str, depth: int, heads: int):
    self.state = {k: v.detach().numpy() for k, v in net.state_dict().items()}
    self.at, self.depth, self.heads = layers, depth, heads

  def __call__(self, name):
    return jnp.stack([self.state[f'{self.at}.{i}.{name}'] for i in range(self.depth)])

  def matrix(self, name):
    return jnp.swapaxes(self(f'{name}.weight'), 1, 2)

  def into_heads(self, name):
    w = self.matrix(name)
    return w.reshape(*w.shape[:2], self.heads, -1)

  def from_heads(self, name):
    w = self.matrix(name)
    return w.reshape(w.shape[0], self.heads, -1, w.shape[2])

  def head_bias(self, name):
    return self(f'{name}.bias').reshape(self.depth, self.heads, -1)

  def norm(self, name):
    return encoder.Norm(scale=self(f'{name}.weight'), bias=self(f'{name}.bias'))


def close(got, want):
  np.testing.assert_allclose(got, want.detach().numpy(), atol=3e-5 * float(want.abs().max()))


@pytest.mark.parity
def test_whisper_encoder():
  import torch
  import transformers
  from transformers.models.whisper.modeling_whisper import WhisperEncoder

  sizes = transformers.WhisperConfig(
    d_model=24, encoder_layers=2, encoder_attention_heads=3, encoder_ffn_dim=40, num_mel_bins=5, max_source_positions=9
  )
  net = redrawn(WhisperEncoder(sizes))
  mel = torch.randn(2, 5, 18)
  want = net(mel, output_hidden_states=True)
  w = Tensors(net, 'layers', depth=2, heads=3)
  attn = encoder.Attention(
    q=w.into_heads('self_attn.q_proj'),
    k=w.into_heads('self_attn.k_proj'),
    v=w.into_heads('self_attn.v_proj'),
    o=w.from_heads('self_attn.out_proj'),
    q_bias=w.head_bias('self_attn.q_proj'),
    v_bias=w.head_bias('self_attn.v_proj'),
    o_bias=w('self_attn.out_proj.bias'),
  )
  blocks = encoder.Block(
    attn_norm=w.norm('self_attn_layer_norm'),
    attn=attn,
    mlp_norm=w.norm('final_layer_norm'),
    up=w.matrix('fc1'),
    up_bias=w('fc1.bias'),
    down=w.matrix('fc2'),
    down_bias=w('fc2.bias'),
  )
  config = dataclasses.replace(TINY, head_dim=8, mlp_width=40, biases=('q', 'v', 'o', 'up', 'down'))
  same_structure(blocks, config)
  x, _ = encoder.apply(blocks, config, want.hidden_states[0].detach().numpy())
  final = encoder.Norm(scale=w.state['layer_norm.weight'], bias=w.state['layer_norm.bias'])
  close(encoder.normalise(x, final, 1e-5), want.last_hidden_state)


@pytest.mark.parity
def test_clip_text_encoder():
  import torch
  import transformers

  sizes = transformers.CLIPTextConfig(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=12,
    eos_token_id=49,
  )
  net = redrawn(transformers.CLIPTextModel(sizes))
  want = net(torch.randint(0, 49, (2, 9)), output_hidden_states=True)
  root = next(k for k in net.state_dict() if k.endswith('encoder.layers.0.layer_norm1.weight'))
  w = Tensors(net, root.removesuffix('.0.layer_norm1.weight'), depth=2, heads=3)
  attn = encoder.Attention(
    q=w.into_heads('self_attn.q_proj'),
    k=w.into_heads('self_attn.k_proj'),
    v=w.into_heads('self_attn.v_proj'),
    o=w.from_heads('self_attn.out_proj'),
    q_bias=w.head_bias('self_attn.q_proj'),
    k_bias=w.head_bias('self_attn.k_proj'),
    v_bias=w.head_bias('self_attn.v_proj'),
    o_bias=w('self_attn.out_proj.bias'),
  )
  blocks = encoder.Block(
    attn_norm=w.norm('layer_norm1'),
    attn=attn,
    mlp_norm=w.norm('layer_norm2'),
    up=w.matrix('mlp.fc1'),
    up_bias=w('mlp.fc1.bias'),
    down=w.matrix('mlp.fc2'),
    down_bias=w('mlp.fc2.bias'),
  )
  config = dataclasses.replace(TINY, head_dim=8, mlp_width=40, activation='quick_gelu', causal=True)
  same_structure(blocks, config)
  x, _ = encoder.apply(blocks, config, want.hidden_states[0].detach().numpy())
  final = root.removesuffix('encoder.layers.0.layer_norm1.weight') + 'final_layer_norm'
  norm = encoder.Norm(scale=w.state[f'{final}.weight'], bias=w.state[f'{final}.bias'])
  close(encoder.normalise(x, norm, sizes.layer_norm_eps), want.last_hidden_state)


@pytest.mark.parity
def test_t5_encoder_with_padding():
  import torch
  import transformers

  sizes = transformers.T5Config(
    vocab_size=50, d_model=24, d_kv=6, d_ff=20, num_layers=2, num_heads=3, feed_forward_proj='gated-gelu'
  )
  net = redrawn(transformers.T5EncoderModel(sizes))
  tokens, mask = torch.randint(0, 50, (2, 9)), torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
  want = net(tokens, attention_mask=mask, output_hidden_states=True)
  w = Tensors(net, 'encoder.block', depth=2, heads=3)
  attn = encoder.Attention(
    q=w.into_heads('layer.0.SelfAttention.q'),
    k=w.into_heads('layer.0.SelfAttention.k'),
    v=w.into_heads('layer.0.SelfAttention.v'),
    o=w.from_heads('layer.0.SelfAttention.o'),
  )
  blocks = encoder.Block(
    attn_norm=encoder.Norm(scale=w('layer.0.layer_norm.weight')),
    attn=attn,
    mlp_norm=encoder.Norm(scale=w('layer.1.layer_norm.weight')),
    gate=w.matrix('layer.1.DenseReluDense.wi_0'),
    up=w.matrix('layer.1.DenseReluDense.wi_1'),
    down=w.matrix('layer.1.DenseReluDense.wo'),
  )
  config = dataclasses.replace(
    TINY, norm='rms', norm_eps=1e-6, activation='tanh_gelu', gated=True, biases=(), scale=1.0
  )
  same_structure(blocks, config)
  bias = net.encoder.block[0].layer[0].SelfAttention.compute_bias(9, 9).detach().numpy()
  embedded = want.hidden_states[0].detach().numpy()
  x, _ = encoder.apply(blocks, config, embedded, mask=mask.numpy() == 1, bias=bias)
  final = encoder.Norm(scale=w.state['encoder.final_layer_norm.weight'])
  got = encoder.normalise(x, final, 1e-6)
  real = mask.numpy() == 1
  close(got[real], want.last_hidden_state[mask == 1])


def same_structure(blocks, config):
  """The weights are exactly those that the configuration describes."""
  want = params.abstract(encoder.spec(config))
  assert jax.tree.map(lambda w: w.shape, blocks) == jax.tree.map(lambda w: w.shape, want)
