"""InternVL as a policy: prompts with images. The one module of `rl` that knows this model.

B groups   P prompt slots   n tiles a prompt   S pixels a side
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import internvl
from core import mesh as mesh_lib
from core import padding
from core import params as params_lib
from core.engine import Engine, EngineSize, Request
from core.files.store import FolderPath
from core.files.tensors import Files
from core.mesh import RULES, Mesh, Share
from core.plan import Part
from core.plan.decoder import triangle
from internvl import Processor
from internvl.features import Images, media_of
from internvl.files import checkpoint, hf_config
from internvl.inputs.processor_config import ProcessorConfig
from internvl.plan.training import size, towers
from internvl.training.export import export
from rl.policy import layouts
from rl.policy.base import PLAIN, Draw, Reading, Trajectory
from rl.policy.layouts import Layout, Slots
from rl.rewards.pairwise import JudgeFailed

MODEL_TYPES = hf_config.MODEL_TYPES
NO_LIMIT = 2**31 - 1  # of tokens


@dataclasses.dataclass(frozen=True)
class VisionPrompt:
  """tokens: int32 [T]. pixels: float32 [n, S, S, 3], tiles of its images. tile_tokens: int32 [n], how many each has."""

  tokens: np.ndarray
  pixels: np.ndarray
  tile_tokens: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class VisionLanguagePolicy:
  """An InternVL model and its processor. file_layout: the tensor names that `save` writes, 'A' or 'B'."""

  config: internvl.Config
  processor: Processor
  file_layout: str = 'B'

  stops = property(lambda self: (self.processor.stop_id,))
  max_length = property(lambda self: self.config.language.max_length)

  def spec(self) -> internvl.Params:
    """As of `rl.policy.Policy`."""
    return internvl.spec(self.config)

  def prompt(self, messages: Sequence[dict], images: Sequence[Any] = (), reading: Reading = PLAIN) -> VisionPrompt:
    """As of `rl.policy.Policy`; tiles are augmented by JPEG recompression."""
    augment = None
    if reading.augment is not None:
      augment = np.random.default_rng(reading.augment)
    inputs = self.processor(
      messages,
      images,
      thinking=reading.thinking,
      augment=augment,
      max_tiles=reading.max_tiles,
      max_length=NO_LIMIT,
    )
    return VisionPrompt(tokens=inputs.tokens, pixels=inputs.pixels, tile_tokens=inputs.tile_tokens)

  def response(self, text: str) -> np.ndarray:
    """As of `rl.policy.Policy`: the assistant's part of a whole conversation, channels of the layout included."""
    talk = [{'role': 'user', 'content': ''}, {'role': 'assistant', 'content': text}]
    whole = self.processor(talk, max_length=NO_LIMIT)
    return whole.tokens[whole.mask]

  def text(self, tokens: Sequence[int]) -> str:
    """As of `rl.policy.Policy`."""
    return self.processor.answer(tokens)

  def requests(
    self, prompts: Sequence[VisionPrompt], draw: Draw, *, samples: int, seeds: Sequence[int]
  ) -> list[Request]:
    """As of `rl.policy.Policy`."""
    options = {'n': samples, 'stops': self.stops, **dataclasses.asdict(draw)}
    return [
      Request(x.tokens.tolist(), seed=int(seed), media=media_of(x), **options)
      for x, seed in zip(prompts, seeds, strict=True)
    ]

  def engine(self, weights: internvl.Params, size: EngineSize, home: Mesh | Share) -> Engine:
    """As of `rl.policy.Policy`."""
    images = Images(weights, self.config, home)
    sizes = dataclasses.asdict(size)
    return Engine(weights.language, self.config.language, features=images, mesh=home, **sizes)

  def slots(self, groups: Sequence[Sequence[Trajectory]], layout: Layout) -> Slots:
    """As of `rl.policy.Policy`."""
    most = max((len(t.prompt.pixels) for group in groups for t in group), default=0)
    return layouts.needs(groups, layout)._replace(tiles=most)

  def inputs(self, groups: Sequence[Sequence[Trajectory]], layout: Layout, slots: Slots) -> layouts.Inputs:
    """As of `rl.policy.Policy`."""
    pad_id = self.processor.pad_id
    if layout == 'rows':
      every = [t for group in groups for t in group]
      inputs = layouts.rows(every, slots, pad_id=pad_id)
      prompts = [t.prompt for t in every]
    else:
      build = layouts.packed if layout == 'trees' else layouts.shared
      inputs = build(groups, slots, pad_id=pad_id)
      prompts = [group[0].prompt for group in groups]
    tiles = {'length': slots.tiles, 'what': 'list of image tiles'}
    pixels = padding.batch([x.pixels for x in prompts], dtype=np.float32, **tiles)
    if self.config.flash is None:
      return inputs.replace(pixels=pixels)
    tile_tokens = padding.batch([x.tile_tokens for x in prompts], dtype=np.int32, **tiles)
    return inputs.replace(pixels=pixels, tile_tokens=tile_tokens)

  def places(self, inputs: layouts.Inputs) -> jax.Array:
    """The tokens that stand for images, bool of the shape of `inputs.tokens`: those of prompts alone.

    A policy may say the image token, which then is text, as it is to the engine.
    """
    places = inputs.tokens == self.config.image_token
    if not isinstance(inputs, layouts.Shared):
      places &= jnp.arange(places.shape[1]) < jnp.asarray(inputs.prompt)[:, None]
    return places

  def log_probs(
    self,
    weights: internvl.Params,
    inputs: layouts.Inputs,
    *,
    temperature: float = 1.0,
    remat: str = 'none',
    rules: dict = RULES,
  ) -> tuple[jax.Array, jax.Array]:
    """As of `rl.policy.Policy`."""
    tokens = layouts.read(inputs)
    places = self.places(inputs)[:, : tokens.shape[1]]
    images = None
    tile_tokens = inputs.tile_tokens
    if inputs.pixels.shape[1]:
      pixels = inputs.pixels.astype(weights.language.embed.dtype)
      images, _ = internvl.model.encode(
        weights, self.config, pixels, tile_tokens=tile_tokens, remat_policy=remat, rules=rules
      )
    embedded = internvl.model.embed(weights, self.config, tokens, images, rules, places=places, tile_tokens=tile_tokens)
    options = {'temperature': temperature, 'remat': remat, 'rules': rules}
    return layouts.log_probs(weights.language, self.config.language, inputs, embedded, **options)

  def shapes(self, groups: int, slots: Slots) -> layouts.Shared | layouts.Trees:
    """As of `rl.policy.Policy`."""
    side = self.config.vision.image_size
    pixels = jax.ShapeDtypeStruct((groups, slots.tiles, side, side, 3), np.float32)
    tile_tokens = None
    if self.config.flash:
      tile_tokens = jax.ShapeDtypeStruct((groups, slots.tiles), np.int32)
    return layouts.shapes(groups, slots).replace(pixels=pixels, tile_tokens=tile_tokens)

  def parts(self, groups: int, slots: Slots) -> tuple[Part, ...]:
    """As of `rl.policy.Policy`."""
    said = groups * (slots.row or slots.samples * slots.response)
    return towers(
      self.config,
      tiles=groups * slots.tiles,
      tokens=groups * slots.prompt + said,
      scored=said,
      pairs=layouts.visible(groups, slots, triangle),
    )

  def save(self, path: str | os.PathLike, weights: internvl.Params) -> None:
    """As of `rl.policy.Policy`."""
    export(path, self.config, weights, self.processor, layout=self.file_layout)


def asking(policy: VisionLanguagePolicy, weights: internvl.Params, *, max_new_tokens: int = 1024) -> Callable:
  """A function of a conversation, whose content may have {'type': 'image', 'image': …} parts, to the greedy answer.

  It makes a judge of a model in this process, `rl.flow.judges.chat.ChatJudge(asking(…), name)`. A conversation
  that does not fit the model's context has no answer: JudgeFailed.
  """
  decoding = internvl.for_decoding(weights)

  def ask(messages: Sequence[dict]) -> str:
    try:
      return internvl.chat(decoding, policy.config, policy.processor, messages, max_new_tokens=max_new_tokens)
    except ValueError as error:
      raise JudgeFailed(str(error)) from error

  return ask


def planned(name: str) -> VisionLanguagePolicy:
  """The policy of a published size, without a processor: for plans. Raises plan.PlanError when there is none."""
  return VisionLanguagePolicy(size(name), None)


def tiny(seed: int, place: Mesh) -> tuple[VisionLanguagePolicy, internvl.Params]:
  """(policy over bytes, random float32 weights on the mesh `place`)."""
  config = internvl.CONFIGS['tiny']
  processor = Processor.over_bytes(
    ProcessorConfig(
      image_size=config.vision.image_size,
      tokens_per_tile=config.tokens_per_tile,
      max_tiles=3,
      thumbnail=False,
      template='internvl_hf',
      system='',
      max_length=config.language.max_length,
    )
  )
  config = dataclasses.replace(config, image_token=processor.image_id)
  make = functools.partial(internvl.init, config=config)
  weights = params_lib.draw(make, jax.random.key(seed), mesh_lib.shardings(internvl.spec(config), place))
  return VisionLanguagePolicy(config, processor), weights


def load(path: FolderPath, place: Mesh) -> tuple[VisionLanguagePolicy, internvl.Params]:
  """(policy, float32 weights on the mesh `place`) of a checkpoint folder. Errors as those of `internvl.load`."""
  processor = Processor.load(path)
  file_layout = 'A' if checkpoint.layout_of(Files(path).tensors) == 'A' else 'B'
  config, weights = internvl.load(path, mesh=place, dtype='float32')
  return VisionLanguagePolicy(config, processor, file_layout), weights
