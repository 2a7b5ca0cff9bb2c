"""The tokenizers' tensors by name, in both published layouts."""

import dataclasses
from collections.abc import Callable, Sequence

from core import conv
from core.files.weights import From
from vibevoice.config import TokenizerConfig
from vibevoice.tokenizer import tower
from vibevoice.tokenizer.codec import Params


@dataclasses.dataclass(frozen=True)
class Layout:
  """Names under the prefix of an encoder or decoder. entry, block: of stage number `i`; `up` for the decoder's."""

  entry: Callable[[int], str]
  up: Callable[[int], str]
  block: Callable[[int], str]
  mixer: str
  head: str


def _original_entry(i: int) -> str:
  return f'downsample_layers.{i}.0.conv.conv'


def _original_up(i: int) -> str:
  if i:
    return f'upsample_layers.{i}.0.convtr.convtr'
  return 'upsample_layers.0.0.conv.conv'


def _original_block(i: int) -> str:
  return f'stages.{i}.{{layer}}.'


def _transformers_entry(i: int) -> str:
  if i:
    return f'conv_layers.{i - 1}.conv.conv'
  return 'stem.conv.conv'


def _transformers_up(i: int) -> str:
  if i:
    return f'conv_layers.{i - 1}.convtr.convtr'
  return 'stem.conv.conv'


def _transformers_block(i: int) -> str:
  if i:
    return f'conv_layers.{i - 1}.stage.{{layer}}.'
  return 'stem.stage.{layer}.'


LAYOUTS = {
  'original': Layout(
    entry=_original_entry, up=_original_up, block=_original_block, mixer='mixer.conv.conv.conv', head='head.conv.conv'
  ),
  'transformers': Layout(
    entry=_transformers_entry, up=_transformers_up, block=_transformers_block, mixer='mixer.conv', head='head.conv'
  ),
}
PLAIN = 'o i k -> k i o'
DEPTHWISE = 'c 1 k -> k c'
DOWN = 'o i (t s) -> t s i o'
UP = 'i o (t s) -> t i s o'


def names(config: TokenizerConfig, layout: str, *, encoder: str | None, decoder: str | None) -> Params:
  """The tree of names of the halves under the prefixes given; None for a half that is not stored."""
  at = LAYOUTS[layout]
  return Params(
    encoder=None if encoder is None else _half(config.depths, at, encoder, entry=at.entry, pattern=DOWN),
    decoder=None if decoder is None else _half(config.depths[::-1], at, decoder, entry=at.up, pattern=UP),
  )


def _half(
  depths: Sequence[int], layout: Layout, prefix: str, *, entry: Callable[[int], str], pattern: str
) -> tower.Params:
  """depths: blocks of each stage. entry: the name of a stage's convolution, read by `pattern`; stage 0's is plain."""
  stages = {}
  for i, depth in enumerate(depths):
    convolution = _conv(prefix + entry(i), pattern if i else PLAIN)
    blocks = _block(prefix + layout.block(i), layout.mixer) if depth else ()
    stages[i] = tower.Stage(conv=convolution, blocks=blocks)
  return tower.Params(stages=stages, head=_conv(prefix + layout.head, PLAIN))


def _conv(name: str, pattern: str) -> conv.Conv:
  return conv.Conv(weight=From(f'{name}.weight', pattern), bias=From(f'{name}.bias'))


def _block(at: str, mixer: str) -> tower.Block:
  return tower.Block(
    norm=From(f'{at}norm.weight'),
    mixer=_conv(at + mixer, DEPTHWISE),
    gamma=From(f'{at}gamma'),
    mlp_norm=From(f'{at}ffn_norm.weight'),
    up=From(f'{at}ffn.linear1.weight', 'o i -> i o'),
    up_bias=From(f'{at}ffn.linear1.bias'),
    down=From(f'{at}ffn.linear2.weight', 'o i -> i o'),
    down_bias=From(f'{at}ffn.linear2.bias'),
    mlp_gamma=From(f'{at}ffn_gamma'),
  )
