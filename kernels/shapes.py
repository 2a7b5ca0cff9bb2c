"""The attention shapes of the shipped models, by the name of the decoder: what kernels are tested and timed on."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
  """Attention of one decoder: N query heads over K key heads of H elements.

  window: the layers' sliding window, if any. sinks: one extra logit a head (GPT-OSS).
  """

  query_heads: int
  key_heads: int
  head_size: int
  window: int | None = None
  sinks: bool = False


PAGE_SIZE = 16  # tokens of a page, as the engine's configs ship it

ATTENTION = {
  'tiny': Shape(query_heads=4, key_heads=2, head_size=24),
  'qwen2.5-1.5b': Shape(query_heads=12, key_heads=2, head_size=128),
  'qwen2.5-7b': Shape(query_heads=28, key_heads=4, head_size=128),
  'qwen2.5-32b': Shape(query_heads=40, key_heads=8, head_size=128),
  'qwen3-0.6b': Shape(query_heads=16, key_heads=8, head_size=128),
  'qwen3-1.7b': Shape(query_heads=16, key_heads=8, head_size=128),
  'qwen3-4b': Shape(query_heads=32, key_heads=8, head_size=128),
  'qwen3-8b': Shape(query_heads=32, key_heads=8, head_size=128),
  'qwen3-14b': Shape(query_heads=40, key_heads=8, head_size=128),
  'qwen3-32b': Shape(query_heads=64, key_heads=8, head_size=128),
  'qwen3-30b-a3b': Shape(query_heads=32, key_heads=4, head_size=128),
  'qwen3-235b-a22b': Shape(query_heads=64, key_heads=4, head_size=128),
  'gpt-oss-20b': Shape(query_heads=64, key_heads=8, head_size=64, window=128, sinks=True),
  'llama3.1-8b': Shape(query_heads=32, key_heads=8, head_size=128),
  'llama3.2-1b': Shape(query_heads=32, key_heads=8, head_size=64),
  'smollm2-135m': Shape(query_heads=9, key_heads=3, head_size=64),
}

HEAD = {'realtime-0.5b': 896, '1.5b': 1536, '7b': 3584}  # width of VibeVoice's diffusion head; its MLP has 3 times that
