"""The transformers' files as diffusers writes them: tensors by name and `config.json`."""

import functools

from core.files import store, weights
from core.files.config import Keys, check, naming, read_json, require
from core.files.store import CheckpointError, FolderPath
from core.files.tensors import Files
from core.files.weights import From
from core.mesh import RULES
from rl.flow.files.linear import linear
from rl.flow.mmdit.config import Config
from rl.flow.mmdit.params import Attention, Joint, Params, Single, Stream, TwoLayers, spec

STEM = 'diffusion_pytorch_model'
SD3 = 'SD3Transformer2DModel'
FLUX = 'FluxTransformer2DModel'
# Keys of every diffusers config that say nothing about the computation.
IGNORED = ('_class_name', '_diffusers_version')
COMMON = ('attention_head_dim', 'in_channels', 'joint_attention_dim', 'num_attention_heads', 'num_layers')
SD3_KEYS = Keys(
  read=(
    *COMMON,
    'caption_projection_dim',
    'dual_attention_layers',
    'out_channels',
    'patch_size',
    'pooled_projection_dim',
    'pos_embed_max_size',
    'sample_size',
  ),
  fixed={'qk_norm': ('rms_norm',)},
  ignored=IGNORED,
)
FLUX_PATCH = 2  # latents are packed in squares of this side, before the transformer as published
FLUX_KEYS = Keys(
  read=(*COMMON, 'axes_dims_rope', 'guidance_embeds', 'num_single_layers', 'out_channels', 'pooled_projection_dim'),
  fixed={'patch_size': (1,)},
  ignored=IGNORED,
)


def config_from(h: dict) -> Config:
  """The configuration of a `config.json`. Raises CheckpointError for what is missing or not supported."""
  family = require(h, '_class_name')
  readers = {SD3: _sd3_from, FLUX: _flux_from}
  if family not in readers:
    raise CheckpointError(f'_class_name={family!r}; expected one of {sorted(readers)}')
  with naming('transformer'):
    return readers[family](h)


def _sd3_from(h: dict) -> Config:
  check(h, SD3_KEYS)
  dual = list(h.get('dual_attention_layers') or ())
  if dual != list(range(len(dual))):
    raise CheckpointError(f'dual_attention_layers={dual}; expected the first blocks, 0, 1, …')
  channels = _positive(h, 'in_channels')
  if h.get('out_channels') not in (None, channels):
    raise CheckpointError(f'out_channels={h["out_channels"]}; expected in_channels={channels}')
  patch = _positive(h, 'patch_size')
  config = Config(
    channels=channels,
    heads=_positive(h, 'num_attention_heads'),
    head_dim=_positive(h, 'attention_head_dim'),
    text=_positive(h, 'joint_attention_dim'),
    pooled=_positive(h, 'pooled_projection_dim'),
    joint=_positive(h, 'num_layers'),
    dual=len(dual),
    patch=patch,
    table=_positive(h, 'pos_embed_max_size'),
    table_extent=_positive(h, 'sample_size') // patch,
    qk_norm=h.get('qk_norm') is not None,
  )
  if h.get('caption_projection_dim') != config.width:
    raise CheckpointError(f'caption_projection_dim={h.get("caption_projection_dim")}; expected {config.width}')
  return config


def _flux_from(h: dict) -> Config:
  check(h, FLUX_KEYS)
  packed = _positive(h, 'in_channels')
  if packed % FLUX_PATCH**2 or h.get('out_channels') not in (None, packed):
    raise CheckpointError(
      f'in_channels={packed}, out_channels={h.get("out_channels")}; expected a multiple of 4, the same for both'
    )
  return Config(
    channels=packed // FLUX_PATCH**2,
    heads=_positive(h, 'num_attention_heads'),
    head_dim=_positive(h, 'attention_head_dim'),
    text=_positive(h, 'joint_attention_dim'),
    pooled=_positive(h, 'pooled_projection_dim'),
    joint=_positive(h, 'num_layers'),
    single=_positive(h, 'num_single_layers'),
    axes=tuple(h.get('axes_dims_rope') or (16, 56, 56)),
    guidance=bool(h.get('guidance_embeds')),
  )


def _positive(h: dict, key: str) -> int:
  value = require(h, key, kind=int)
  if value < 1:
    raise CheckpointError(f'{key}={value}; expected a positive number')
  return value


def config_to(config: Config) -> dict:
  """The `config.json` of a configuration."""
  c = config
  shared = {
    'num_attention_heads': c.heads,
    'attention_head_dim': c.head_dim,
    'joint_attention_dim': c.text,
    'pooled_projection_dim': c.pooled,
    'num_layers': c.joint,
  }
  if c.axes is not None:
    return shared | {
      '_class_name': FLUX,
      'in_channels': c.channels * c.patch**2,
      'out_channels': None,
      'patch_size': 1,
      'num_single_layers': c.single,
      'axes_dims_rope': list(c.axes),
      'guidance_embeds': c.guidance,
    }
  return shared | {
    '_class_name': SD3,
    'in_channels': c.channels,
    'out_channels': c.channels,
    'patch_size': c.patch,
    'caption_projection_dim': c.width,
    'sample_size': c.table_extent * c.patch,
    'pos_embed_max_size': c.table,
    'dual_attention_layers': list(range(c.dual)),
    'qk_norm': 'rms_norm' if c.qk_norm else None,
  }


def names(config: Config) -> Params:
  """The tree of tensor names."""
  c = config
  flux = c.axes is not None
  # FLUX packs the channels first, then rows and columns of a square; SD3's convolution has all three apart.
  patch, patch_pattern = ('x_embedder', 'd (c p q) -> p q c d') if flux else ('pos_embed.proj', 'd c p q -> p q c d')
  head, bias = ('(c p q)', '(c p q) -> p q c') if flux else ('(p q c)', '(p q c) -> p q c')
  joint = functools.partial(_joint, c)
  return Params(
    patch=linear(patch, pattern=patch_pattern),
    positions=None if flux else From('pos_embed.pos_embed', '1 (y x) d -> y x d'),
    context=linear('context_embedder'),
    time=_two_layers('timestep_embedder'),
    guidance=_two_layers('guidance_embedder') if c.guidance else None,
    pooled=_two_layers('text_embedder'),
    dual=joint(first=0, own=True) if c.dual else None,
    joint=joint(first=c.dual) if c.plain else None,
    last=joint(first=c.dual + c.plain, text_out=False) if c.last else None,
    single=_single(c) if c.single else None,
    modulation=_modulation('norm_out.linear'),
    out=linear('proj_out', pattern=f'{head} d -> d p q c', bias=bias),
  )


def _two_layers(name: str) -> TwoLayers:
  at = f'time_text_embed.{name}'
  return TwoLayers(up=linear(f'{at}.linear_1'), down=linear(f'{at}.linear_2'))


def _modulation(name: str, first: int = 0):
  return linear(name, pattern='(p e) d -> d p e', bias='(p e) -> p e', first=first)


def _attention(
  c: Config, at: str, *, projections: tuple[str, ...], norms: tuple[str, str], out: str | None, first: int
) -> Attention:
  into = [linear(f'{at}.{name}', pattern='(n h) d -> d n h', bias='(n h) -> n h', first=first) for name in projections]
  q_norm, k_norm = (From(f'{at}.{name}.weight', first=first) if c.qk_norm else None for name in norms)
  o = None
  if out:
    o = linear(f'{at}.{out}', pattern='d (n h) -> n h d', first=first)
  return Attention(q=into[0], k=into[1], v=into[2], o=o, q_norm=q_norm, k_norm=k_norm)


IMAGE = {'projections': ('to_q', 'to_k', 'to_v'), 'norms': ('norm_q', 'norm_k')}
TEXT = {'projections': ('add_q_proj', 'add_k_proj', 'add_v_proj'), 'norms': ('norm_added_q', 'norm_added_k')}


def _joint(c: Config, *, first: int, own: bool = False, text_out: bool = True) -> Joint:
  at = 'transformer_blocks.{layer}.'
  layer = functools.partial(linear, first=first)
  attend = functools.partial(_attention, c, first=first)
  image = Stream(
    modulation=_modulation(f'{at}norm1.linear', first),
    attn=attend(f'{at}attn', out='to_out.0', **IMAGE),
    own=attend(f'{at}attn2', out='to_out.0', **IMAGE) if own else None,
    up=layer(f'{at}ff.net.0.proj'),
    down=layer(f'{at}ff.net.2'),
  )
  text = Stream(
    modulation=_modulation(f'{at}norm1_context.linear', first),
    attn=attend(f'{at}attn', out='to_add_out' if text_out else None, **TEXT),
    up=layer(f'{at}ff_context.net.0.proj') if text_out else None,
    down=layer(f'{at}ff_context.net.2') if text_out else None,
  )
  return Joint(text=text, image=image)


def _single(c: Config) -> Single:
  at = 'single_transformer_blocks.{layer}.'
  return Single(
    modulation=_modulation(f'{at}norm.linear'),
    attn=_attention(c, f'{at}attn', out=None, first=0, **IMAGE),
    up=linear(f'{at}proj_mlp'),
    out=linear(f'{at}proj_out'),
  )


def leaves(config: Config) -> list:
  """(our name, place in the files, spec) of each weight."""
  return weights.leaves(names(config), spec(config))


def load(path: FolderPath, *, mesh=None, rules=RULES, dtype=None) -> tuple[Config, Params]:
  """(config, params) of a `transformer` folder or its URL, straight onto `mesh` (one device by default).

  dtype: of the weights; None keeps that of the files. Raises core.files.store.CheckpointError naming what is missing,
  unexpected, misshapen or unreadable, before memory is spent.
  """
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
