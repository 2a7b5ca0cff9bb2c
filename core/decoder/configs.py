"""Published decoders, by name."""

from core import moe
from core.decoder.params import Config
from core.layers import Llama3Rope, Yarn


def _qwen3(width, mlp_width, depth, heads, *, kv_heads=8, experts=None, tied=False) -> Config:
  return Config(
    vocab=151936,
    width=width,
    depth=depth,
    heads=heads,
    kv_heads=kv_heads,
    head_dim=128,
    mlp_width=mlp_width,
    norm_eps=1e-6,
    rope_theta=1e6,
    qk_norm=True,
    moe=experts,
    tied=tied,
    max_length=40960,
  )


def _qwen2(width, mlp_width, depth, heads, kv_heads, *, tied=False) -> Config:
  return Config(
    vocab=151936 if tied else 152064,
    width=width,
    depth=depth,
    heads=heads,
    kv_heads=kv_heads,
    head_dim=128,
    mlp_width=mlp_width,
    norm_eps=1e-6,
    rope_theta=1e6,
    qkv_bias=True,
    tied=tied,
    max_length=131072 if not tied else 32768,
  )


def _qwen3_moe(width, mlp_width, depth, heads, expert_width) -> Config:
  experts = moe.Config(experts=128, top_k=8, width=expert_width, aux_coef=0.001)
  return _qwen3(width, mlp_width, depth, heads, kv_heads=4, experts=experts)


def _llama3(width, mlp_width, depth, heads, *, head_dim, factor, tied=False) -> Config:
  """Llama 3.1 and 3.2, whose context of 8,192 tokens was extended by `factor`."""
  return Config(
    vocab=128256,
    width=width,
    depth=depth,
    heads=heads,
    kv_heads=8,
    head_dim=head_dim,
    mlp_width=mlp_width,
    norm_eps=1e-5,
    rope_theta=500000.0,
    rope_scaling=Llama3Rope(factor=factor, original_length=8192),
    tied=tied,
    max_length=131072,
  )


CONFIGS = {
  'qwen3-0.6b': _qwen3(1024, 3072, 28, 16, tied=True),
  'qwen3-1.7b': _qwen3(2048, 6144, 28, 16, tied=True),
  'qwen3-4b': _qwen3(2560, 9728, 36, 32, tied=True),
  'qwen3-8b': _qwen3(4096, 12288, 36, 32),
  'qwen3-14b': _qwen3(5120, 17408, 40, 40),
  'qwen3-32b': _qwen3(5120, 25600, 64, 64),
  'qwen3-30b-a3b': _qwen3_moe(2048, 6144, 48, 32, 768),
  'qwen3-235b-a22b': _qwen3_moe(4096, 12288, 94, 64, 1536),
  'qwen2.5-1.5b': _qwen2(1536, 8960, 28, 12, 2, tied=True),
  'qwen2.5-7b': _qwen2(3584, 18944, 28, 28, 4),
  'qwen2.5-32b': _qwen2(5120, 27648, 64, 40, 8),
  'gpt-oss-20b': Config(
    vocab=201088,
    width=2880,
    depth=24,
    heads=64,
    kv_heads=8,
    head_dim=64,
    mlp_width=2880,
    norm_eps=1e-5,
    rope_theta=150000.0,
    rope_scaling=Yarn(32.0, 4096, truncate=False),
    qkv_bias=True,
    out_bias=True,
    sinks=True,
    windows=(128, None),
    max_length=131072,
    moe=moe.Config(experts=32, top_k=4, width=2880, activation='clamped', bias=True, aux_coef=0.9),
  ),
  'llama3.1-8b': _llama3(4096, 14336, 32, 32, head_dim=128, factor=8.0),
  'llama3.2-1b': _llama3(2048, 8192, 16, 32, head_dim=64, factor=32.0, tied=True),
  'smollm2-135m': Config(
    vocab=49152,
    width=576,
    depth=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    mlp_width=1536,
    norm_eps=1e-5,
    rope_theta=100000.0,
    tied=True,
    max_length=8192,
  ),
  # Two layers wide enough to be wrong in: heads x head_dim is not the width.
  'tiny': Config(
    vocab=300,
    width=64,
    depth=2,
    heads=4,
    kv_heads=2,
    head_dim=24,
    mlp_width=160,
    norm_eps=1e-6,
    rope_theta=10000.0,
    qk_norm=True,
    tied=True,
    max_length=1024,
  ),
}
