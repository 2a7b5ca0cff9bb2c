"""Messages, images and videos in; token ids, loss mask and pixels out.

T tokens   N tiles   S side of a tile   B rows
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from core import padding
from core.conversations import messages as chat
from core.files import generation, store
from core.files.store import FolderPath
from core.files.tokenizers import TextEncoder, byte_tokenizer, load_tokenizer, token_id
from internvl.flash import slots
from internvl.inputs import images, processor_config, templates, tiles, video
from internvl.inputs.processor_config import ProcessorConfig

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class Inputs:
  """One conversation, ready for `internvl.apply` with a batch axis added.

  Attributes:
    tokens: int32 [T].
    mask: bool [T]: mask[t] says that token t is one the assistant writes, so one to train on.
    pixels: float32 [N, S, S, 3], normalised; N = 0 for text alone.
    tiles: int32 [images and frames]: how many of the N tiles each of them has, in order.
    tile_tokens: int32 [N]: how many image tokens each tile has.
    grids: int32 [images and frames, 2]: the columns and rows that each is cut into; a thumbnail may follow.
  """

  tokens: np.ndarray
  mask: np.ndarray
  pixels: np.ndarray
  tiles: np.ndarray
  tile_tokens: np.ndarray
  grids: np.ndarray


@dataclasses.dataclass(frozen=True)
class Batch:
  """Several conversations padded to one length.

  Attributes:
    tokens: int32 [B, T], `pad_id` at padding.
    positions: int32 [B, T], 0.. along each row, −1 at padding.
    mask: bool [B, T], as in `Inputs`.
    pixels: float32 [N, S, S, 3]: the tiles of all rows in row order, then zeros up to a bucket.
    tiles: int32 [B]: how many of the N belong to each row.
    tile_tokens: int32 [N]: how many image tokens each tile has, 0 at padding.
  """

  tokens: np.ndarray
  positions: np.ndarray
  mask: np.ndarray
  pixels: np.ndarray
  tiles: np.ndarray
  tile_tokens: np.ndarray


class Processor:
  """Holds a tokenizer and the constants of the input side; calling it is a pure function of its arguments."""

  def __init__(self, config: ProcessorConfig, tokenizer: PreTrainedTokenizerFast, stops: Sequence[int] = ()):
    """stops: token ids that end an answer, further to the layout's stop token and padding."""
    self.config, self.tokenizer, self.stops = config, tokenizer, tuple(stops)
    self.layout = templates.LAYOUTS[config.template]
    structural = templates.IMAGE_TOKENS + self.layout.tokens
    self._ids = {token: token_id(tokenizer, token) for token in structural}
    self._encode = TextEncoder(tokenizer, structural=structural, markup=templates.MARKUP)
    self.image_id = self._ids[templates.IMAGE_CONTEXT]
    self.stop_id = self._ids[self.layout.stop]
    self.pad_id = self.stop_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    self.stop_ids = tuple(sorted({self.stop_id, self.pad_id, *stops}))

  @classmethod
  def load(cls, path: FolderPath) -> Processor:
    """From a checkpoint folder or its URL, as published in either layout or saved by `save`.

    Raises:
      FileNotFoundError, ValueError: files are missing, malformed, or contradict one another.
    """
    folder = store.folder(path)
    processor = cls(processor_config.read(folder), load_tokenizer(folder), generation.read(folder).stops)
    declared = processor_config.declared_image_id(folder)
    if declared not in (None, processor.image_id):
      raise ValueError(
        f'{folder}: config.json says that {templates.IMAGE_CONTEXT} is token '
        f'{declared}, the tokenizer says {processor.image_id}'
      )
    return processor

  @classmethod
  def over_bytes(cls, config: ProcessorConfig) -> Processor:
    """For models trained from scratch: the tokens are bytes and what `config.template` and images need."""
    layout, blank = templates.LAYOUTS[config.template], '<|endoftext|>'
    special = [blank, *layout.tokens, *templates.IMAGE_TOKENS, *templates.MARKUP]
    return cls(config, byte_tokenizer(special, eos=layout.stop, pad=blank))

  def save(self, path: FolderPath) -> None:
    """Writes the tokenizer and the constants into a folder or URL; a folder is made if need be."""
    with store.folder(path).staged() as local:
      self.tokenizer.save_pretrained(local)
    processor_config.write(path, self.config)
    generation.write(path, self.stops)

  def __call__(
    self,
    messages: Sequence[dict],
    images: Any = None,
    videos: Any = None,
    *,
    thinking: bool = False,
    pick=video.uniform,
    augment: np.random.Generator | None = None,
    max_tiles: int | None = None,
    frames: int | None = None,
    max_length: int | None = None,
  ) -> Inputs:
    """A conversation as model inputs.

    Messages that end with the assistant are a training example; others become a prompt for its next turn.

    Args:
      messages: see `core.conversations.messages`.
      images: a list of what `internvl.inputs.images.load` takes, in the order of their marks; or a single one.
      videos: a list of what `video.load_frames` takes, in the order of their marks; or a single path.
      thinking: use the layout's system text for reasoning before the answer.
      pick: the rule that picks the frames of a video, from `internvl.inputs.video`.
      augment: JPEG recompression of every tile, drawn from this generator.
      max_tiles: limit of tiles an image; None: `config.max_tiles`.
      frames: of a video; None: `config.video_frames`.
      max_length: limit of tokens; None: `config.max_length`.

    Raises:
      ValueError: malformed messages, marks that do not match the media, an image that cannot be used, a
        conversation longer than the limit.
      FileNotFoundError: a missing image or video.
    """
    turns = chat.parse(messages, images, videos, label=self.layout.label_images)
    turns, system = self._system(turns, thinking)
    limits = self.config.limits(max_tiles=max_tiles, frames=frames)
    turns, media = self._load(turns, pick, **limits)
    tokens, mask = self._tokenize(turns, system)
    self._check_length(tokens, self.config.max_length if max_length is None else max_length)
    pixels = [self._pixels(picture, cap) for picture, cap in media]
    if augment is not None:
      pixels = [tiles.recompress(p, augment) for p in pixels]
    counts = np.asarray([len(p) for p in pixels], np.int32)
    grids = [self._cells(picture, cap) for picture, cap in media]
    size = self.config.image_size
    pixels = np.concatenate([*pixels, np.zeros((0, size, size, 3), np.uint8)])
    return Inputs(
      tokens=tokens,
      mask=mask,
      pixels=tiles.normalize(pixels, self.config.mean, self.config.std),
      tiles=counts,
      tile_tokens=np.full(len(pixels), self.config.tokens_per_tile, np.int32),
      grids=np.asarray(grids, np.int32).reshape(-1, 2),
    )

  def answer(self, tokens: Sequence[int]) -> str:
    """What generated token ids say: cut at the stop token, without markers of the layout."""
    return self.layout.answer(self.tokenizer.decode(self.said(tokens), skip_special_tokens=False))

  def said(self, tokens: Sequence[int]) -> list[int]:
    """The generated token ids before the first that ends an answer, without padding at their end."""
    ends = {*self.stop_ids} - {self.pad_id} | {self.stop_id}
    said = list(itertools.takewhile(lambda t: t not in ends, map(int, tokens)))
    while said and said[-1] == self.pad_id:
      said.pop()
    return said

  def _system(self, turns, thinking: bool):
    """Splits off the system text: the conversation's own, or the configured one."""
    own = ''.join(p.value for p in turns[0].parts) if turns[0].role == 'system' else None
    if own is not None and thinking:
      raise ValueError('thinking mode brings its own system text, but the messages begin with one')
    default = self.layout.system if self.config.system is None else self.config.system
    system = self.layout.thinking if thinking else default if own is None else own
    return (turns if own is None else turns[1:]), system

  def _load(self, turns, pick, *, max_tiles: int, frames: int):
    """Loads the media. Returns (role, segments) turns, and each image or frame with its cap on tiles."""
    config, media = self.config, []
    shown = sum(p.kind == 'image' for t in turns for p in t.parts)
    cap = tiles.share(max_tiles, shown) if config.share_tiles and shown else max_tiles
    cap = max(cap, config.min_tiles)
    laid_out = []
    for turn in turns:
      segments = []
      for kind, value in turn.parts:
        if kind == 'text':
          segments.append(templates.Segment(value))
        elif kind == 'image':
          media.append((images.load(value, transparency=config.transparency), cap))
          segments += templates.image_run(self._count(*media[-1]) * config.tokens_per_tile)
        else:
          pictures = video.load_frames(value, frames, pick, transparency=config.transparency)
          media += [(picture, None) for picture in pictures]
          segments += templates.frame_lines(len(pictures), config.tokens_per_tile)
      laid_out.append((turn.role, segments))
    return laid_out, media

  def _grid(self, cap: int) -> dict:
    config = self.config
    return {'max_tiles': cap, 'min_tiles': config.min_tiles, 'size': config.image_size, 'thumbnail': config.thumbnail}

  def _count(self, image, cap: int) -> int:
    return tiles.count(*image.size, **self._grid(cap))

  def _cells(self, image, cap: int | None) -> tuple[int, int]:
    """(columns, rows) that an image is cut into; a video frame (no cap) is always one tile."""
    if cap is None:
      return 1, 1
    config = self.config
    return tiles.grid(*image.size, max_tiles=cap, min_tiles=config.min_tiles, size=config.image_size)

  def _pixels(self, image, cap: int | None) -> np.ndarray:
    """uint8 [tiles, S, S, 3]; a video frame (no cap) is always one tile."""
    return tiles.single(image, size=self.config.image_size) if cap is None else tiles.tile(image, **self._grid(cap))

  def _tokenize(self, turns, system: str):
    segments = templates.conversation(self.layout, turns, system)
    return templates.tokenize(segments, self._encode, self._ids)

  def _check_length(self, tokens: np.ndarray, limit: int) -> None:
    if len(tokens) > limit:
      visual = int((tokens == self.image_id).sum())
      raise ValueError(f'the conversation has {len(tokens)} tokens ({visual} of them for images); the limit is {limit}')


def compress(x: Inputs, image_id: int, compressed: np.ndarray, compact_tokens: int) -> Inputs:
  """A conversation in which each tile of `compressed` bool [N] keeps only its first `compact_tokens` image tokens.

  x: laid out with the same number of image tokens for every tile. Positions are contiguous again, as they follow from
  the tokens. Raises ValueError if tiles and image tokens do not match.
  """
  if len(compressed) != len(x.tile_tokens):
    raise ValueError(f'{len(compressed)} decisions for {len(x.tile_tokens)} tiles; expected one a tile')
  if not np.any(compressed):
    return x
  tile_tokens = np.where(compressed, compact_tokens, x.tile_tokens).astype(np.int32)
  keep = slots.shortened(x.tokens, image_id, tile_tokens, int(x.tile_tokens[0]))
  return dataclasses.replace(x, tokens=x.tokens[keep], mask=x.mask[keep], tile_tokens=tile_tokens)


def pad(
  inputs: Sequence[Inputs],
  length_buckets: Sequence[int],
  tile_buckets: Sequence[int],
  *,
  pad_id: int,
  side: str = 'right',
) -> Batch:
  """Collates conversations into one batch whose two sizes come from fixed buckets, so few programs compile.

  Args:
    inputs: the rows.
    length_buckets, tile_buckets: allowed sizes of T and N; the smallest that fits is taken.
    pad_id: token id at padding.
    side: 'right' for training, 'left' to have all prompts end in the same column.

  Raises:
    ValueError: no rows, another `side`, or rows that no bucket holds.
  """
  if not inputs or side not in ('left', 'right'):
    raise ValueError(f"pad needs rows and side 'left' or 'right', not {len(inputs)} rows and {side!r}")
  length = _bucket(max(len(x.tokens) for x in inputs), length_buckets, 'tokens')
  total = sum(len(x.pixels) for x in inputs)
  rows = functools.partial(padding.batch, length=length, side=side)
  pixels = np.concatenate([x.pixels for x in inputs], dtype=np.float32)
  tile_tokens = np.concatenate([x.tile_tokens for x in inputs], dtype=np.int32)
  tile_slots = _bucket(total, tile_buckets, 'tiles')
  return Batch(
    tokens=rows([x.tokens for x in inputs], fill=pad_id, dtype=np.int32),
    positions=padding.positions([len(x.tokens) for x in inputs], length, side=side),
    mask=rows([x.mask for x in inputs], fill=False, dtype=bool),
    pixels=padding.pad(pixels, tile_slots),
    tiles=np.asarray([len(x.pixels) for x in inputs], np.int32),
    tile_tokens=padding.pad(tile_tokens, tile_slots),
  )


def _bucket(n: int, buckets: Sequence[int], unit: str) -> int:
  fitting = [b for b in buckets if b >= n]
  if not fitting:
    raise ValueError(f'{n} {unit} fit no bucket; the buckets are {sorted(buckets)}')
  return min(fitting)
