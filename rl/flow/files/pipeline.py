"""Whole folders as diffusers publishes them: `model_index.json` and a folder for each part."""

import dataclasses
from typing import Any, Literal

from core.files import store
from core.files.config import Keys, check, naming, read_json, write_json
from core.files.store import CheckpointError, Folder, FolderPath
from core.mesh import RULES
from rl.flow.files import scheduler as scheduler_files
from rl.flow.files import text as text_files
from rl.flow.files import transformer as transformer_files
from rl.flow.files import vae as vae_files
from rl.flow.text import tokenizers

INDEX = 'model_index.json'
FAMILIES = {'FluxPipeline': 'flux', 'StableDiffusion3Pipeline': 'sd3'}
# The text encoders of a family by number, in the order in which folders are numbered.
ENCODERS = {'flux': ('clip', 't5'), 'sd3': ('clip', 'clip', 't5')}
CLASSES = {
  'transformer': {'flux': (transformer_files.FLUX,), 'sd3': (transformer_files.SD3,)},
  'clip': {'flux': ('CLIPTextModel',), 'sd3': ('CLIPTextModelWithProjection',)},
  't5': {'flux': ('T5EncoderModel',), 'sd3': ('T5EncoderModel',)},
}
NO_EFFECT = ('_class_name', '_diffusers_version', 'feature_extractor', 'image_encoder', 'scheduler', 'vae')


@dataclasses.dataclass(frozen=True)
class Part:
  """A model: its configuration and its weights."""

  config: Any
  params: Any


@dataclasses.dataclass(frozen=True)
class TextPart(Part):
  """A text encoder with its tokenizer."""

  tokenizer: tokenizers.Tokenizer


@dataclasses.dataclass(frozen=True)
class Texts:
  """The text encoders of a folder. t5: None where the folder has none, which SD3 allows."""

  family: Literal['flux', 'sd3']
  clips: tuple[TextPart, ...]
  t5: TextPart | None


@dataclasses.dataclass(frozen=True)
class Generator:
  """What makes an image of encoded text."""

  family: Literal['flux', 'sd3']
  transformer: Part
  vae: Part
  scheduler: scheduler_files.Scheduler


@dataclasses.dataclass(frozen=True)
class Index:
  """What `model_index.json` says: the family, and which of its numbered text encoders are there."""

  family: Literal['flux', 'sd3']
  encoders: tuple[tuple[str, str, str], ...]  # (kind, folder, folder of the tokenizer)


def _folder_name(base: str, number: int) -> str:
  if number == 0:
    return base
  return f'{base}_{number + 1}'


def read_index(path: FolderPath) -> Index:
  """The index of a folder. Raises CheckpointError for another kind of pipeline, or of part."""
  folder = store.folder(path)
  with naming(f'{folder}/{INDEX}'):
    return _index(read_json(folder, INDEX))


def _index(h: dict) -> Index:
  family = FAMILIES.get(h.get('_class_name'))
  if family is None:
    raise CheckpointError(f'_class_name={h.get("_class_name")!r}; expected one of {sorted(FAMILIES)}')
  _check_class(h, 'transformer', CLASSES['transformer'][family])
  encoders = []
  known = ['transformer']
  for number, kind in enumerate(ENCODERS[family]):
    name = _folder_name('text_encoder', number)
    tokenizer = _folder_name('tokenizer', number)
    known += [name, tokenizer]
    if kind == 't5' and family == 'sd3' and h.get(name) in (None, [None, None]):
      continue
    _check_class(h, name, CLASSES[kind][family])
    encoders.append((kind, name, tokenizer))
  check(h, Keys(read=known, ignored=NO_EFFECT))
  return Index(family=family, encoders=tuple(encoders))


def _check_class(h: dict, part: str, allowed: tuple[str, ...]) -> None:
  entry = h.get(part)
  name = entry
  if isinstance(entry, list) and entry:
    name = entry[-1]
  if name not in allowed:
    raise CheckpointError(f'{part}={entry!r}; expected {" or ".join(allowed)}')


def load_texts(path: FolderPath, *, mesh=None, rules=RULES, dtype=None) -> Texts:
  """The text encoders and tokenizers of a folder or its URL, straight onto `mesh` (one device by default).

  dtype: of the weights; None keeps that of each file. Raises core.files.store.CheckpointError naming what is missing,
  unexpected, misshapen or unreadable.
  """
  folder = store.folder(path)
  index = read_index(folder)
  options = {'mesh': mesh, 'rules': rules, 'dtype': dtype}
  clips = []
  t5 = None
  for kind, name, tokenizer in index.encoders:
    if kind == 'clip':
      text = tokenizers.load_clip(folder / tokenizer)
      clips.append(TextPart(*text_files.load_clip(folder / name, **options), tokenizer=text))
    else:
      text = tokenizers.load_t5(folder / tokenizer)
      t5 = TextPart(*text_files.load_t5(folder / name, **options), tokenizer=text)
  return Texts(family=index.family, clips=tuple(clips), t5=t5)


def read_configs(path: FolderPath) -> tuple[Any, Any]:
  """(transformer's, autoencoder's) configuration, without their weights. Raises as `load_texts`."""
  folder = store.folder(path)
  configs = []
  for name, files in (('transformer', transformer_files), ('vae', vae_files)):
    with naming(f'{folder}/{name}/config.json'):
      configs.append(files.config_from(read_json(folder / name, 'config.json')))
  return configs[0], configs[1]


def load_generator(path: FolderPath, *, mesh=None, coder_mesh=None, rules=RULES, dtype=None) -> Generator:
  """The transformer, autoencoder and scheduler of a folder or its URL; as `load_texts`.

  coder_mesh: of the autoencoder; `mesh` by default.
  Raises CheckpointError also where the parts do not fit each other.
  """
  folder = store.folder(path)
  family = read_index(folder).family
  _check_fit(folder, *read_configs(folder))
  options = {'rules': rules, 'dtype': dtype}
  transformer = transformer_files.load(folder / 'transformer', mesh=mesh, **options)
  autoencoder = vae_files.load(folder / 'vae', mesh=coder_mesh or mesh, **options)
  return Generator(
    family=family,
    transformer=Part(*transformer),
    vae=Part(*autoencoder),
    scheduler=scheduler_files.load(folder / 'scheduler'),
  )


def _check_fit(folder: Folder, transformer, vae) -> None:
  if transformer.channels != vae.channels:
    raise CheckpointError(
      f'{folder}: the transformer has {transformer.channels} latent channels, the autoencoder {vae.channels}'
    )


def save(path: FolderPath, texts: Texts, generator: Generator) -> None:
  """Writes a whole folder: the names, shapes, dtypes and values as published, tokenizers byte by byte."""
  folder = store.folder(path)
  family = generator.family
  index: dict[str, Any] = {name: ['diffusers', None] for name in ('transformer', 'vae', 'scheduler')}
  index['_class_name'] = next(name for name, known in FAMILIES.items() if known == family)
  index['transformer'][1] = CLASSES['transformer'][family][0]
  index['vae'][1] = vae_files.CLASS
  index['scheduler'][1] = scheduler_files.CLASS
  parts = iter((*texts.clips, texts.t5))
  for number, kind in enumerate(ENCODERS[family]):
    name = _folder_name('text_encoder', number)
    tokenizer = _folder_name('tokenizer', number)
    part = next(parts)
    if part is None:
      index[name] = index[tokenizer] = [None, None]
      continue
    write = text_files.save_clip if kind == 'clip' else text_files.save_t5
    write(folder / name, part.config, part.params)
    tokenizers.save(folder / tokenizer, part.tokenizer)
    index[name] = ['transformers', CLASSES[kind][family][0]]
    index[tokenizer] = ['transformers', 'CLIPTokenizer' if kind == 'clip' else 'T5TokenizerFast']
  transformer_files.save(folder / 'transformer', generator.transformer.config, generator.transformer.params)
  vae_files.save(folder / 'vae', generator.vae.config, generator.vae.params)
  scheduler_files.save(folder / 'scheduler', generator.scheduler)
  write_json(folder, INDEX, index)
