"""A checkpoint's generation_config.json: how its publishers mean it to be sampled."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import logging

from core.files import store
from core.files.config import naming, read_json, write_json
from core.files.store import CheckpointError, FolderPath

NAME = 'generation_config.json'
TOP_K = 50  # transformers' own, of a file that samples and does not say
# Key to the value without effect: what is not done here, and is said when a file asks for it.
NOT_DONE = {
  'begin_suppress_tokens': None,
  'encoder_no_repeat_ngram_size': 0,
  'epsilon_cutoff': 0.0,
  'eta_cutoff': 0.0,
  'forced_bos_token_id': None,
  'forced_eos_token_id': None,
  'min_length': 0,
  'min_new_tokens': None,
  'no_repeat_ngram_size': 0,
  'num_beams': 1,
  'penalty_alpha': None,
  'suppress_tokens': None,
  'typical_p': 1.0,
}


@dataclasses.dataclass(frozen=True)
class Generation:
  """Sampling as a checkpoint states it, in the terms of `core.engine.sampling`; without a file, greedy.

  stops: token ids that end a response. max_new_tokens: None where the file sets no limit.
  """

  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  repetition_penalty: float = 1.0
  max_new_tokens: int | None = None
  stops: tuple[int, ...] = ()


def read(path: FolderPath) -> Generation:
  """What the generation_config.json of a folder says. `do_sample: false`, or its absence, means temperature 0.

  Logs the keys that are not done here. Raises CheckpointError naming a value that is no number of its kind.
  """
  folder = store.folder(path)
  if not folder.has(NAME):
    return Generation()
  h = read_json(folder, NAME)
  with naming(f'{folder}/{NAME}'):
    ends = h.get('eos_token_id')
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    samples = bool(h.get('do_sample', False))
    generation = Generation(
      temperature=_number(h, 'temperature', 1.0) if samples else 0.0,
      top_k=_whole(h, 'top_k', TOP_K if samples else 0),
      top_p=_number(h, 'top_p', 1.0),
      min_p=_number(h, 'min_p', 0.0),
      repetition_penalty=_number(h, 'repetition_penalty', 1.0),
      max_new_tokens=_whole(h, 'max_new_tokens', None),
      stops=tuple(_whole({'eos_token_id': end}, 'eos_token_id', None) for end in ends),
    )
  ignored = {key: h[key] for key, neutral in NOT_DONE.items() if h.get(key, neutral) not in (neutral, None)}
  if ignored:
    logging.warning('%s/%s: not done here: %s', folder, NAME, ignored)
  return generation


def ends(path: FolderPath, own: int | None) -> tuple[int, ...]:
  """The tokens that end a response, each once: the tokenizer's `own`, then those of the folder's file."""
  first = [] if own is None else [own]
  return tuple(dict.fromkeys([*first, *read(path).stops]))


def sampling(path: FolderPath) -> Generation:
  """How a server samples for clients that do not say: as the folder's file, without one as OpenAI's interface."""
  if store.folder(path).has(NAME):
    return read(path)
  return Generation(temperature=1.0)


def write(path: FolderPath, stops: Sequence[int]) -> None:
  """States the end tokens of a checkpoint that its tokenizer does not state; writes nothing where there are none."""
  if stops:
    write_json(path, NAME, {'eos_token_id': list(stops)})


def _number(h: dict, key: str, default: float) -> float:
  value = default
  if h.get(key) is not None:
    value = h[key]
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    raise CheckpointError(f'{key}={value!r}; expected a number')
  return float(value)


def _whole(h: dict, key: str, default: Any) -> Any:
  value = default
  if h.get(key) is not None:
    value = h[key]
  if isinstance(value, bool) or not isinstance(value, (int, type(None))):
    raise CheckpointError(f'{key}={value!r}; expected a whole number')
  return value
