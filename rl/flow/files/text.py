"""The text encoders' files as transformers writes them."""

from core import encoder
from core.files import store, weights
from core.files.config import Keys, check, naming, read_json, require
from core.files.store import FolderPath
from core.files.tensors import Files
from core.files.weights import From
from core.mesh import RULES
from rl.flow.text import clip, t5

CLIP_FIELDS = {
  'hidden_size': 'width',
  'num_hidden_layers': 'depth',
  'num_attention_heads': 'heads',
  'intermediate_size': 'hidden',
  'vocab_size': 'vocab',
  'max_position_embeddings': 'length',
  'eos_token_id': 'eos',
}
CLIP_KEYS = Keys(
  read=(*CLIP_FIELDS, 'hidden_act', 'layer_norm_eps', 'projection_dim'),
  fixed={'model_type': ('clip_text_model',), 'hidden_act': ('quick_gelu', 'gelu')},
  ignored=('dropout',),
)
T5_FIELDS = {
  'd_model': 'width',
  'num_layers': 'depth',
  'num_heads': 'heads',
  'd_kv': 'head_dim',
  'd_ff': 'hidden',
  'vocab_size': 'vocab',
  'relative_attention_num_buckets': 'buckets',
  'relative_attention_max_distance': 'distance',
}
T5_KEYS = Keys(
  read=(*T5_FIELDS, 'layer_norm_epsilon'),
  fixed={
    'model_type': ('t5',),
    'feed_forward_proj': ('gated-gelu',),
    'dense_act_fn': ('gelu_new',),
    'is_gated_act': (True,),
  },
  # About training, and the decoder.
  ignored=(
    'classifier_dropout',
    'dropout_rate',
    'num_decoder_layers',
    'output_past',
    'scale_decoder_outputs',
    'tie_word_embeddings',
  ),
)
PROJECTION = 'text_projection.weight'
PREFIX = 'text_model.'  # of the tower's tensors as published; transformers 5 drops it where there is no projection
TIED = 'encoder.embed_tokens.weight'  # T5's word table once more, in some exports


def clip_config_from(h: dict, *, projected: bool) -> clip.Config:
  """The configuration of a CLIP `config.json`. Raises CheckpointError for what is missing or not supported."""
  check(h, CLIP_KEYS)
  fields = {field: require(h, key, kind=int) for key, field in CLIP_FIELDS.items()}
  return clip.Config(
    **fields,
    projection=require(h, 'projection_dim', kind=int) if projected else None,
    activation=require(h, 'hidden_act'),
    eps=float(require(h, 'layer_norm_eps')),
  )


def clip_config_to(config: clip.Config) -> dict:
  """The `config.json` of a configuration."""
  architecture = 'CLIPTextModel' if config.projection is None else 'CLIPTextModelWithProjection'
  written = {key: getattr(config, field) for key, field in CLIP_FIELDS.items()}
  return written | {
    'architectures': [architecture],
    'model_type': 'clip_text_model',
    'hidden_act': config.activation,
    'layer_norm_eps': config.eps,
    'projection_dim': config.projection or config.width,
  }


def t5_config_from(h: dict) -> t5.Config:
  """The configuration of a T5 `config.json`. Raises CheckpointError for what is missing or not supported."""
  check(h, T5_KEYS)
  require(h, 'feed_forward_proj')
  fields = {field: require(h, key, kind=int) for key, field in T5_FIELDS.items()}
  return t5.Config(**fields, eps=float(require(h, 'layer_norm_epsilon')))


def t5_config_to(config: t5.Config) -> dict:
  """The `config.json` of a configuration."""
  written = {key: getattr(config, field) for key, field in T5_FIELDS.items()}
  return written | {
    'architectures': ['T5EncoderModel'],
    'model_type': 't5',
    'feed_forward_proj': 'gated-gelu',
    'dense_act_fn': 'gelu_new',
    'is_gated_act': True,
    'layer_norm_epsilon': config.eps,
    'tie_word_embeddings': False,
  }


def _norm(name: str, *, bias: bool = True) -> encoder.Norm:
  return encoder.Norm(scale=From(f'{name}.weight'), bias=From(f'{name}.bias') if bias else None)


def clip_names(config: clip.Config, prefix: str = PREFIX) -> clip.Params:
  """CLIP's tree of tensor names."""
  at = prefix + 'encoder.layers.{layer}.'
  heads = lambda name: From(f'{at}self_attn.{name}_proj.weight', '(n h) d -> d n h')
  head_bias = lambda name: From(f'{at}self_attn.{name}_proj.bias', '(n h) -> n h')
  attn = encoder.Attention(
    q=heads('q'),
    k=heads('k'),
    v=heads('v'),
    o=From(f'{at}self_attn.out_proj.weight', 'd (n h) -> n h d'),
    q_bias=head_bias('q'),
    k_bias=head_bias('k'),
    v_bias=head_bias('v'),
    o_bias=From(f'{at}self_attn.out_proj.bias'),
  )
  blocks = encoder.Block(
    attn_norm=_norm(f'{at}layer_norm1'),
    attn=attn,
    mlp_norm=_norm(f'{at}layer_norm2'),
    up=From(f'{at}mlp.fc1.weight', 'f d -> d f'),
    up_bias=From(f'{at}mlp.fc1.bias'),
    down=From(f'{at}mlp.fc2.weight', 'd f -> f d'),
    down_bias=From(f'{at}mlp.fc2.bias'),
  )
  return clip.Params(
    tokens=From(f'{prefix}embeddings.token_embedding.weight'),
    positions=From(f'{prefix}embeddings.position_embedding.weight'),
    blocks=blocks,
    norm=_norm(f'{prefix}final_layer_norm'),
    projection=None if config.projection is None else From(PROJECTION, 'p d -> d p'),
  )


def t5_names() -> t5.Params:
  """T5's tree of tensor names."""
  at = 'encoder.block.{layer}.layer.'
  heads = lambda name: From(f'{at}0.SelfAttention.{name}.weight', '(n h) d -> d n h')
  dense = lambda name: From(f'{at}1.DenseReluDense.{name}.weight', 'o i -> i o')
  attn = encoder.Attention(
    q=heads('q'), k=heads('k'), v=heads('v'), o=From(f'{at}0.SelfAttention.o.weight', 'd (n h) -> n h d')
  )
  blocks = encoder.Block(
    attn_norm=_norm(f'{at}0.layer_norm', bias=False),
    attn=attn,
    mlp_norm=_norm(f'{at}1.layer_norm', bias=False),
    gate=dense('wi_0'),
    up=dense('wi_1'),
    down=dense('wo'),
  )
  return t5.Params(
    tokens=From('shared.weight'),
    bias=From('encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight'),
    blocks=blocks,
    norm=_norm('encoder.final_layer_norm', bias=False),
  )


def load_clip(path: FolderPath, *, mesh=None, rules=RULES, dtype=None) -> tuple[clip.Config, clip.Params]:
  """(config, params) of a CLIP text encoder's folder; as `rl.flow.files.transformer.load`."""
  folder = store.folder(path)
  files = Files(folder)
  with naming(f'{folder}/config.json'):
    config = clip_config_from(read_json(folder, 'config.json'), projected=PROJECTION in files)
  wanted = files.dtype if dtype is None else dtype
  prefix = PREFIX if any(name.startswith(PREFIX) for name in files.tensors) else ''
  position_ids = f'{prefix}embeddings.position_ids'  # 0, 1, 2, …, stored by old exports
  options = {'mesh': mesh, 'rules': rules, 'dtype': wanted, 'unused': (position_ids,)}
  return config, weights.load(files, clip_names(config, prefix), clip.spec(config), **options)


def load_t5(path: FolderPath, *, mesh=None, rules=RULES, dtype=None) -> tuple[t5.Config, t5.Params]:
  """(config, params) of a T5 encoder's folder; as `rl.flow.files.transformer.load`."""
  folder = store.folder(path)
  with naming(f'{folder}/config.json'):
    config = t5_config_from(read_json(folder, 'config.json'))
  files = Files(folder)
  wanted = files.dtype if dtype is None else dtype
  options = {'mesh': mesh, 'rules': rules, 'dtype': wanted, 'unused': (TIED,)}
  return config, weights.load(files, t5_names(), t5.spec(config), **options)


def save_clip(path: FolderPath, config: clip.Config, params: clip.Params, *, prefix: str = PREFIX) -> None:
  """Writes safetensors and `config.json`: the names, shapes, dtypes and values as published."""
  weights.save(path, params, clip_names(config, prefix), clip.spec(config))
  weights.save_config(path, clip_config_to(config))


def save_t5(path: FolderPath, config: t5.Config, params: t5.Params) -> None:
  """Writes safetensors and `config.json`: the names, shapes, dtypes and values as published."""
  weights.save(path, params, t5_names(), t5.spec(config))
  weights.save_config(path, t5_config_to(config))
