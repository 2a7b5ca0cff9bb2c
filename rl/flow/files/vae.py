"""The autoencoder's files as diffusers writes them."""

from core import encoder
from core.conv import Conv
from core.files import store, weights
from core.files.config import Keys, check, naming, read_json, require
from core.files.store import CheckpointError, FolderPath
from core.files.tensors import Files
from core.files.weights import From
from core.mesh import RULES
from rl.flow.files.transformer import IGNORED, STEM
from rl.flow.vae.config import Config
from rl.flow.vae.params import Attention, Half, Level, Middle, Params, Residual, spec

CLASS = 'AutoencoderKL'
DOWN = 'DownEncoderBlock2D'
UP = 'UpDecoderBlock2D'
KEYS = Keys(
  read=(
    'block_out_channels',
    'down_block_types',
    'in_channels',
    'latent_channels',
    'layers_per_block',
    'norm_num_groups',
    'out_channels',
    'scaling_factor',
    'shift_factor',
    'up_block_types',
    'use_post_quant_conv',
    'use_quant_conv',
  ),
  fixed={'_class_name': (CLASS,), 'act_fn': ('silu',), 'mid_block_add_attention': (True,)},
  ignored=(*IGNORED, 'sample_size', 'force_upcast'),  # about tiling, and half precision
)


def config_from(h: dict) -> Config:
  """The configuration of a `config.json`. Raises CheckpointError for what is missing or not supported."""
  check(h, KEYS)
  for key in ('use_quant_conv', 'use_post_quant_conv'):
    if h.get(key, True):
      raise CheckpointError(f'{key}={h.get(key)}; expected false: a convolution of the latents is not supported')
  widths = tuple(require(h, 'block_out_channels', kind=list))
  for key, kind in (('down_block_types', DOWN), ('up_block_types', UP)):
    if h.get(key) != [kind] * len(widths):
      raise CheckpointError(f'{key}={h.get(key)}; expected {kind} for each of block_out_channels={list(widths)}')
  images = require(h, 'in_channels', kind=int)
  if h.get('out_channels') != images:
    raise CheckpointError(f'out_channels={h.get("out_channels")}; expected in_channels={images}')
  return Config(
    widths=widths,
    depth=require(h, 'layers_per_block', kind=int),
    channels=require(h, 'latent_channels', kind=int),
    scale=float(require(h, 'scaling_factor')),
    shift=float(h.get('shift_factor') or 0.0),
    groups=require(h, 'norm_num_groups', kind=int),
    images=images,
  )


def config_to(config: Config) -> dict:
  """The `config.json` of a configuration."""
  c = config
  levels = len(c.widths)
  return {
    '_class_name': CLASS,
    'act_fn': 'silu',
    'block_out_channels': list(c.widths),
    'down_block_types': [DOWN] * levels,
    'up_block_types': [UP] * levels,
    'in_channels': c.images,
    'out_channels': c.images,
    'latent_channels': c.channels,
    'layers_per_block': c.depth,
    'mid_block_add_attention': True,
    'norm_num_groups': c.groups,
    'scaling_factor': c.scale,
    'shift_factor': c.shift,
    'use_quant_conv': False,
    'use_post_quant_conv': False,
  }


def _conv(name: str) -> Conv:
  return Conv(weight=From(f'{name}.weight', 'o i y x -> y x i o'), bias=From(f'{name}.bias'))


def _norm(name: str) -> encoder.Norm:
  return encoder.Norm(scale=From(f'{name}.weight'), bias=From(f'{name}.bias'))


def _residual(at: str, block: Residual) -> Residual:
  return Residual(
    norm1=_norm(f'{at}.norm1'),
    conv1=_conv(f'{at}.conv1'),
    norm2=_norm(f'{at}.norm2'),
    conv2=_conv(f'{at}.conv2'),
    shortcut=None if block.shortcut is None else _conv(f'{at}.conv_shortcut'),
  )


def _attention(at: str) -> Attention:
  matrix = lambda name: From(f'{at}.{name}.weight', 'o i -> i o')
  bias = lambda name: From(f'{at}.{name}.bias')
  return Attention(
    norm=_norm(f'{at}.group_norm'),
    q=matrix('to_q'),
    k=matrix('to_k'),
    v=matrix('to_v'),
    o=matrix('to_out.0'),
    q_bias=bias('to_q'),
    k_bias=bias('to_k'),
    v_bias=bias('to_v'),
    o_bias=bias('to_out.0'),
  )


def _half(at: str, half: Half, level: str, resample: str) -> Half:
  """level, resample: what the levels of this half and their last convolutions are called."""
  levels = {}
  for i, described in half.levels.items():
    name = f'{at}.{level}.{i}'
    blocks = {j: _residual(f'{name}.resnets.{j}', block) for j, block in described.blocks.items()}
    last = None
    if described.resample is not None:
      last = _conv(f'{name}.{resample}.0.conv')
    levels[i] = Level(blocks=blocks, resample=last)
  middle = Middle(
    before=_residual(f'{at}.mid_block.resnets.0', half.middle.before),
    attn=_attention(f'{at}.mid_block.attentions.0'),
    after=_residual(f'{at}.mid_block.resnets.1', half.middle.after),
  )
  return Half(
    entry=_conv(f'{at}.conv_in'),
    levels=levels,
    middle=middle,
    norm=_norm(f'{at}.conv_norm_out'),
    out=_conv(f'{at}.conv_out'),
  )


def names(config: Config) -> Params:
  """The tree of tensor names."""
  described = spec(config)
  return Params(
    encoder=_half('encoder', described.encoder, 'down_blocks', 'downsamplers'),
    decoder=_half('decoder', described.decoder, 'up_blocks', 'upsamplers'),
  )


def load(path: FolderPath, *, mesh=None, rules=RULES, dtype=None) -> tuple[Config, Params]:
  """(config, params) of a `vae` folder; as `rl.flow.files.transformer.load`."""
  folder = store.folder(path)
  with naming(f'{folder}/config.json'):
    config = config_from(read_json(folder, 'config.json'))
  files = Files(folder, stem=STEM)
  wanted = files.dtype if dtype is None else dtype
  return config, weights.load(files, names(config), spec(config), mesh=mesh, rules=rules, dtype=wanted)


def save(path: FolderPath, config: Config, params: Params) -> None:
  """Writes safetensors and `config.json`: the names, shapes, dtypes and values as published."""
  weights.save(path, params, names(config), spec(config), stem=STEM)
  weights.save_config(path, config_to(config))
