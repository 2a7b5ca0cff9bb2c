"""PEFT's LoRA adapter folders in and out: adapter_config.json and adapter_model.safetensors.

An adapter names its tensors after the modules of the base model: `base_model.model.<module>.lora_A.weight` [rank, in]
and `….lora_B.weight` [out, rank], for the base tensor `<module>.weight` [out, in]. So the base model's tree of names
says where each belongs.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from core import mesh as mesh_lib
from core import params as params_lib
from core.files import store, weights
from core.files.config import Keys, check, naming, read_json, require, write_json
from core.files.store import CheckpointError, FolderPath
from core.files.tensors import Files
from core.files.weights import From
from core.params import Lora, Spec

CONFIG = 'adapter_config.json'
WEIGHTS = 'adapter_model.safetensors'
PREFIX = 'base_model.model.'
EMPTY: tuple = ([], {})  # of a field that is present and says nothing

# Fields of peft.LoraConfig that change the function are supported at one value; initialisations that move the base
# weights (PiSSA, OLoRA, CorDA, …) are refused with them.
KEYS = Keys(
  read=('r', 'lora_alpha', 'use_rslora'),
  fixed={
    'peft_type': ('LORA',),
    'use_dora': (False,),
    'use_qalora': (False,),
    'lora_bias': (False,),
    'bias': ('none',),
    'fan_in_fan_out': (False,),
    'init_lora_weights': (True, False, 'gaussian', 'orthogonal'),
    'modules_to_save': EMPTY,
    'rank_pattern': EMPTY,
    'alpha_pattern': EMPTY,
    'layers_to_transform': EMPTY,
    'layer_replication': EMPTY,
    'target_parameters': EMPTY,
    'trainable_token_indices': EMPTY,
    'alora_invocation_tokens': EMPTY,
    'ensure_weight_tying': (False,),
  },
  # The tensors say themselves which modules are adapted; the rest is provenance, or concerns training.
  ignored=(
    'auto_mapping',
    'base_model_name_or_path',
    'corda_config',
    'eva_config',
    'exclude_modules',
    'inference_mode',
    'layers_pattern',
    'loftq_config',
    'lora_dropout',
    'megatron_config',
    'megatron_core',
    'peft_version',
    'qalora_group_size',
    'revision',
    'runtime_config',
    'target_modules',
    'task_type',
  ),
)


@dataclasses.dataclass(frozen=True)
class _Place:
  """Where the two factors of one weight's correction live, and what they are."""

  names: dict[str, From]
  spec: dict[str, Spec]

  def modules(self) -> set[str]:
    """The tensors of the first factor."""
    return {name for _, name in self.names['a'].names(self.spec['a'].shape)}


def load(path: FolderPath, params: Any, names: Sequence[Any], spec: Any, *, mesh=None, rules=mesh_lib.RULES) -> Any:
  """`params` with the adapter of a folder: each weight that it adapts becomes a float32 `core.params.Lora`.

  names: trees of names of the base model, one for each layout; the one that fits best is used. Raises CheckpointError
  naming a field that is not supported, with what is, and each tensor that is missing, unexpected or misshapen.
  """
  folder = store.folder(path)
  rank, alpha = _read_config(folder)
  files = Files(folder, (WEIGHTS,))
  places = max((_found(tree, spec, rank, files) for tree in names), key=len)
  if not places:
    expected = next(iter(_places(names[0], spec, rank).values()))
    raise CheckpointError(
      f'{folder}: no tensor of the adapter belongs to this model: it has {sorted(files.tensors)[:2]}; '
      f'expected names such as {min(expected.modules())}'
    )
  tree = {name: place.names for name, place in places.items()}
  specs = {name: place.spec for name, place in places.items()}
  factors = weights.load(files, tree, specs, mesh=mesh, rules=rules, dtype=jnp.float32)

  def adapted(at, weight):
    found = factors.get(params_lib.path_name(at))
    if found is None:
      return weight
    return Lora(weight, found['a'], found['b'], alpha)

  return jax.tree.map_with_path(adapted, params)


def _read_config(folder: store.Folder) -> tuple[int, float]:
  """(rank, alpha) with the correction alpha / rank · b a, as `core.params.Lora` defines it."""
  h = read_json(folder, CONFIG)
  with naming(f'{folder}/{CONFIG}'):
    require(h, 'peft_type')
    check(h, KEYS)
    rank = require(h, 'r', kind=int)
    if rank < 1:
      raise CheckpointError(f'r={rank}; expected 1 or more')
    alpha = float(require(h, 'lora_alpha'))
  # rsLoRA (arXiv 2312.03732) scales by alpha / √rank.
  return rank, alpha * math.sqrt(rank) if h.get('use_rslora') else alpha


def _found(names: Any, spec: Any, rank: int, files: Files) -> dict[str, _Place]:
  """The weights of which the files have a factor."""
  places = _places(names, spec, rank)
  return {name: place for name, place in places.items() if place.modules() & files.tensors.keys()}


def _places(names: Any, spec: Any, rank: int) -> dict[str, _Place]:
  """The places of all weights that can be adapted: matrices of one tensor a layer."""
  result = {}
  for name, source, s in weights.leaves(names, spec):
    has_two_groups = len(_groups(source)) == 2
    is_matrix = has_two_groups and 0 < s.inputs < len(s.shape) - s.stack
    if is_matrix and source.name.endswith('.weight') and 'experts' not in s.axes:
      result[name] = _place(source, s, rank)
  return result


def _groups(source: From) -> list[str]:
  """How the pattern writes each axis of the stored tensor: `(n h)` and `d` of '(n h) d -> d n h'."""
  return re.findall(r'\([^)]*\)|\w+', source.pattern.partition('->')[0])


def _place(source: From, s: Spec, rank: int) -> _Place:
  out_group, in_group = _groups(source)
  right = source.pattern.split('->')[1]
  axes = right.split()[1:] if source.parts > 1 else right.split()
  inputs = ' '.join(axes[: s.inputs])
  outputs = ' '.join(axes[s.inputs :])
  part = 'part ' if source.parts > 1 else ''
  module = PREFIX + source.name.removesuffix('.weight')
  cut = s.stack + s.inputs
  names = {
    'a': From(f'{module}.lora_A.weight', f'r {in_group} -> {inputs} r'),
    'b': From(f'{module}.lora_B.weight', f'{out_group} r -> {part}r {outputs}', source.part, source.parts),
  }
  spec = {
    'a': Spec((*s.shape[:cut], rank), (*s.axes[:cut], None), inputs=s.inputs),
    'b': Spec((*s.shape[: s.stack], rank, *s.shape[cut:]), (*s.axes[: s.stack], None, *s.axes[cut:])),
  }
  return _Place(names, spec)


def save(path: FolderPath, params: Any, names: Any, spec: Any, *, base: str | None = None) -> None:
  """Writes the `Lora` weights of `params` as an adapter folder that PEFT reads; the base weights are not written.

  base: what adapter_config.json says of the base model, a path or a name. Raises ValueError when nothing is adapted,
  for several ranks or alphas, and for a weight that the layout stores fused with others or by expert.
  """
  adapters = _adapters(params)
  sizes = {(w.a.shape[-1], w.alpha) for w in adapters.values()}
  if len(sizes) != 1:
    found = sorted(sizes) or 'no Lora weight'
    raise ValueError(f'adapters to save: {found} (rank, alpha); expected a single pair')
  ((rank, alpha),) = sizes
  places = _places(names, spec, rank)
  unknown = [name for name in adapters if name not in places or places[name].names['b'].parts > 1]
  if unknown:
    raise ValueError(f'{unknown}: not a matrix of its own in this layout of the files; save the merged model instead')
  tree = {name: places[name].names for name in adapters}
  specs = {name: places[name].spec for name in adapters}
  factors = {name: {'a': w.a, 'b': w.b} for name, w in adapters.items()}
  folder = store.folder(path)
  weights.save_one(folder, WEIGHTS, factors, tree, specs)
  if jax.process_index() == 0:
    write_json(folder, CONFIG, _config(rank, alpha, tree, base))


def _adapters(params: Any) -> dict[str, Lora]:
  """The adapted weights by name, blocks stacked."""
  is_lora = lambda w: isinstance(w, Lora)
  leaves = jax.tree.leaves_with_path(weights.restacked(params), is_leaf=is_lora)
  return {params_lib.path_name(at): w for at, w in leaves if is_lora(w)}


def _config(rank: int, alpha: float, tree: Mapping[str, dict[str, From]], base: str | None) -> dict:
  modules = (places['a'].name.removeprefix(PREFIX).removesuffix('.lora_A.weight') for places in tree.values())
  # A pattern of whole names: the bare `q_proj` would adapt a vision tower's projections as well.
  pattern = '|'.join(sorted(module.replace('.', r'\.').replace('{layer}', r'\d+') for module in modules))
  return {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': base,
    'r': rank,
    'lora_alpha': int(alpha) if alpha == int(alpha) else alpha,
    'lora_dropout': 0.0,
    'target_modules': pattern,
    'bias': 'none',
    'fan_in_fan_out': False,
    'use_rslora': False,
    'inference_mode': True,
  }
