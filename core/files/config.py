"""Reading the config.json of a published checkpoint: typed access, errors that name the object, and known keys.

A key that is skipped in silence may change what the model computes. So a reader declares what it knows in one table:
the keys that it reads, the keys that it supports at one value only, and those that do not matter to the forward pass.
Any other key is an error.
"""

import contextlib
import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any

from core.files import store
from core.files.store import CheckpointError, FolderPath

# Written into every published config by `transformers`, of its present or earlier versions: provenance, precision,
# token ids (the tokenizer and generation_config.json are authoritative), initialisation, dropout, generation defaults.
GENERIC = frozenset({
  '_attn_implementation', '_attn_implementation_autoset', '_attn_implementation_internal', '_commit_hash',
  '_name_or_path', '_output_attentions', 'add_cross_attention', 'architectures', 'attention_dropout',
  'attn_implementation', 'attn_pdrop', 'auto_map', 'bad_words_ids', 'begin_suppress_tokens', 'bos_token_id',
  'chunk_size_feed_forward', 'cross_attention_hidden_size', 'decoder_start_token_id', 'diversity_penalty', 'do_sample',
  'dtype', 'early_stopping', 'encoder_no_repeat_ngram_size', 'eos_token_id', 'exponential_decay_length_penalty',
  'finetuning_task', 'forced_bos_token_id', 'forced_eos_token_id', 'gradient_checkpointing', 'id2label',
  'initializer_factor', 'initializer_range', 'is_decoder', 'is_encoder_decoder', 'label2id', 'length_penalty',
  'max_length', 'min_length', 'model_type', 'no_repeat_ngram_size', 'num_beam_groups', 'num_beams',
  'num_return_sequences', 'output_attentions', 'output_hidden_states', 'output_router_logits', 'output_scores',
  'pad_token_id', 'prefix', 'pretraining_tp', 'problem_type', 'pruned_heads', 'remove_invalid_values',
  'repetition_penalty', 'return_dict', 'return_dict_in_generate', 'sep_token_id', 'suppress_tokens',
  'task_specific_params', 'temperature', 'tf_legacy_loss', 'tie_encoder_decoder', 'tokenizer_class', 'top_k', 'top_p',
  'torch_dtype', 'torchscript', 'transformers_version', 'typical_p', 'unsloth_fixed', 'unsloth_version',
  'use_bfloat16', 'use_cache', 'use_flash_attn',
})  # fmt: skip


@contextlib.contextmanager
def naming(what: str):
  """Says in the message of a refusal which object of a checkpoint was refused; impossible values are refusals too."""
  try:
    yield
  except (ValueError, TypeError, AttributeError, KeyError, ZeroDivisionError) as e:
    raise CheckpointError(f'{what}: {e}') from e


def read_json(path: FolderPath, name: str, kind: type = dict) -> Any:
  """The contents of the JSON file `name` of a folder.

  Raises CheckpointError naming the file when it cannot be read or does not hold a `kind`.
  """
  folder = store.folder(path)
  try:
    value = json.loads(folder.read(name).decode('utf-8'))
  except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as e:
    raise CheckpointError(f'{folder}/{name}: not JSON ({e})') from e
  if not isinstance(value, kind):
    raise CheckpointError(f'{folder}/{name}: holds a {type(value).__name__}; expected a {kind.__name__}')
  return value


def write_json(path: FolderPath, name: str, value: Any) -> None:
  """Writes the JSON file `name` of a folder, with sorted keys."""
  text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + '\n'
  store.folder(path).write(name, [text.encode()])


def require(h: dict, key: str, *aliases: str, kind: type | None = None) -> Any:
  """h[key], or the first alias present. Raises CheckpointError when absent, or not of type `kind`."""
  for k in (key, *aliases):
    value = h.get(k)
    if value is None:
      continue
    if kind is not None and (not isinstance(value, kind) or isinstance(value, bool)):
      raise CheckpointError(f'{k}={value!r}; expected a value of type {kind.__name__}')
    return value
  raise CheckpointError(f'{key!r} is missing (keys: {sorted(h)[:30]})')


@dataclasses.dataclass(frozen=True)
class Keys:
  """What a reader knows of one object of a config.

  read: keys that the reader looks at itself. fixed: key to the values that are supported. ignored: keys without effect
  on the forward pass, further to GENERIC.
  """

  read: Collection[str] = ()
  fixed: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
  ignored: Collection[str] = ()


def check(h: Any, keys: Keys) -> None:
  """Raises CheckpointError, naming key and value, for a config object that says what its reader cannot do.

  A key whose value is None is absent.
  """
  if not isinstance(h, dict):
    raise CheckpointError(f'{h!r}; expected an object of keys and values')
  for key, allowed in keys.fixed.items():
    if h.get(key) is not None and h[key] not in allowed:
      expected = ' or '.join(map(repr, allowed))
      raise CheckpointError(f'{key}={h[key]!r} is not supported; expected {expected}')
  known = {*keys.read, *keys.fixed, *keys.ignored, *GENERIC}
  unknown = {key: value for key, value in h.items() if key not in known and value is not None}
  if unknown:
    pairs = [f'{key}={_short(value)}' for key, value in sorted(unknown.items())]
    listed = ', '.join(pairs)
    raise CheckpointError(
      f'not understood: {listed}. Such a key may change what the model computes; '
      'delete it from the file if you know that it does not'
    )


def _short(value: Any) -> str:
  text = repr(value)
  if len(text) <= 60:
    return text
  return f'{text[:57]}…'
