"""A causal language model as a policy: any folder that `core.decoder` loads, or a tiny one over bytes from scratch."""

import dataclasses
import functools
import itertools
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from core import decoder
from core import mesh as mesh_lib
from core import params as params_lib
from core.conversations.template import ChatTemplate
from core.engine import Engine, EngineSize, Request
from core.files import generation, store
from core.files.store import FolderPath
from core.files.tokenizers import TextEncoder, byte_tokenizer, load_tokenizer
from core.mesh import RULES, Mesh, Share
from core.plan import Part
from core.plan.decoder import decoder_parts, triangle
from rl.policy import layouts
from rl.policy.base import PLAIN, Draw, Reading, Trajectory
from rl.policy.layouts import Layout, Slots

BLANK = '<|endoftext|>'
START = '<|im_start|>'
END = '<|im_end|>'
# The chat template of models trained from scratch: Qwen's without a default system turn.
CHAT_TEMPLATE = (
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class TextPrompt:
  """tokens: int32 [T]."""

  tokens: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TextPolicy:
  """A decoder and its tokenizer, whose chat template writes the prompts."""

  config: decoder.Config
  tokenizer: Any
  stops: tuple[int, ...]

  max_length = property(lambda self: self.config.max_length)

  @property
  def pad_id(self) -> int:
    """The token at padding."""
    if self.tokenizer.pad_token_id is None:
      return self.stops[0]
    return self.tokenizer.pad_token_id

  def spec(self) -> decoder.Params:
    """As of `rl.policy.Policy`."""
    return decoder.spec(self.config)

  @functools.cached_property
  def _template(self) -> ChatTemplate:
    return ChatTemplate(self.tokenizer)

  @functools.cached_property
  def _encode(self) -> TextEncoder:
    """Encodes what the policy says: special tokens written out are plain text."""
    return self._template.encode

  def prompt(self, messages: Sequence[dict], images: Sequence[Any] = (), reading: Reading = PLAIN) -> TextPrompt:
    """As of `rl.policy.Policy`. Special tokens in what users say are read as plain text: they can forge no turn."""
    check_text_only(images, reading)
    turns = [{'role': m['role'], 'content': _text(m)} for m in messages]
    return TextPrompt(self._template(turns))

  def response(self, text: str) -> np.ndarray:
    """As of `rl.policy.Policy`."""
    return np.array([*self._encode(text), self.stops[0]], np.int32)

  def text(self, tokens: Sequence[int]) -> str:
    """As of `rl.policy.Policy`."""
    said = list(itertools.takewhile(lambda t: t not in self.stops, map(int, tokens)))
    return self.tokenizer.decode(said, skip_special_tokens=False, clean_up_tokenization_spaces=False)

  def requests(self, prompts: Sequence[TextPrompt], draw: Draw, *, samples: int, seeds: Sequence[int]) -> list[Request]:
    """As of `rl.policy.Policy`."""
    options = {'n': samples, 'stops': self.stops, **dataclasses.asdict(draw)}
    return [Request(x.tokens.tolist(), seed=int(seed), **options) for x, seed in zip(prompts, seeds, strict=True)]

  def engine(self, weights: decoder.Params, size: EngineSize, home: Mesh | Share) -> Engine:
    """As of `rl.policy.Policy`."""
    return Engine(weights, self.config, **dataclasses.asdict(size), mesh=home)

  def slots(self, groups: Sequence[Sequence[Trajectory]], layout: Layout) -> Slots:
    """As of `rl.policy.Policy`."""
    return layouts.needs(groups, layout)

  def inputs(self, groups: Sequence[Sequence[Trajectory]], layout: Layout, slots: Slots) -> layouts.Inputs:
    """As of `rl.policy.Policy`."""
    if layout == 'rows':
      return layouts.rows([t for group in groups for t in group], slots, pad_id=self.pad_id)
    build = layouts.packed if layout == 'trees' else layouts.shared
    return build(groups, slots, pad_id=self.pad_id)

  def log_probs(
    self,
    weights: decoder.Params,
    inputs: layouts.Inputs,
    *,
    temperature: float = 1.0,
    remat: str = 'none',
    rules: dict = RULES,
  ) -> tuple[jax.Array, jax.Array]:
    """As of `rl.policy.Policy`."""
    tokens = layouts.read(inputs)
    embedded = decoder.embed(weights, tokens, rules)
    options = {'temperature': temperature, 'remat': remat, 'rules': rules}
    return layouts.log_probs(weights, self.config, inputs, embedded, **options)

  def shapes(self, groups: int, slots: Slots) -> layouts.Shared | layouts.Trees:
    """As of `rl.policy.Policy`."""
    return layouts.shapes(groups, slots)

  def parts(self, groups: int, slots: Slots) -> tuple[Part, ...]:
    """As of `rl.policy.Policy`."""
    said = groups * (slots.row or slots.samples * slots.response)
    pairs = layouts.visible(groups, slots, triangle)
    return decoder_parts(self.config, tokens=groups * slots.prompt + said, scored=said, pairs=pairs)

  def save(self, path: str | os.PathLike, weights: decoder.Params) -> None:
    """As of `rl.policy.Policy`."""
    path = pathlib.Path(path)
    draft = path.with_name(path.name + '.new')
    decoder.save(draft, self.config, weights)
    mesh_lib.barrier('weights saved')
    if jax.process_index() == 0:
      self.tokenizer.save_pretrained(draft)
      generation.write(draft, [stop for stop in self.stops if stop != self.tokenizer.eos_token_id])
      shutil.rmtree(path, ignore_errors=True)
      os.replace(draft, path)
    mesh_lib.barrier('policy saved')


def check_text_only(images: Sequence[Any], reading: Reading) -> None:
  """Raises ValueError for images, and for a reading other than the default."""
  if images:
    raise ValueError(f'a query has {len(images)} images: expected none, since the policy reads only text')
  if reading.max_tiles is not None or reading.augment is not None:
    raise ValueError(
      f'max_tiles={reading.max_tiles}, augment={reading.augment}: expected None, since the policy reads only text'
    )
  if reading.thinking:
    raise ValueError('thinking=True: expected False, since a chat template has no second system text for reasoning')


def _text(message: dict) -> str:
  """The text of a turn. Raises ValueError for one with media."""
  content = message['content']
  if isinstance(content, str):
    return content
  kinds = {part['type'] for part in content} - {'text'}
  if kinds:
    raise ValueError(f'a turn has {", ".join(sorted(kinds))}: expected text, since the policy reads nothing else')
  return ''.join(part['text'] for part in content)


def tiny(seed: int, place: Mesh) -> tuple[TextPolicy, decoder.Params]:
  """(policy over bytes, random float32 weights on the mesh `place`)."""
  tokenizer = byte_tokenizer([BLANK, START, END], eos=END, pad=BLANK)
  tokenizer.chat_template = CHAT_TEMPLATE
  return from_scratch(tokenizer, seed, place)


def from_scratch(tokenizer: Any, seed: int, place: Mesh) -> tuple[TextPolicy, decoder.Params]:
  """(policy over a tokenizer of at most 300 tokens, random float32 weights on the mesh `place`)."""
  config = decoder.CONFIGS['tiny']
  make = functools.partial(decoder.init, config=config)
  weights = params_lib.draw(make, jax.random.key(seed), mesh_lib.shardings(decoder.spec(config), place))
  return TextPolicy(config, tokenizer, (tokenizer.eos_token_id,)), weights


def load(path: FolderPath, place: Mesh) -> tuple[TextPolicy, decoder.Params]:
  """(policy, float32 weights on the mesh `place`) of a checkpoint folder.

  Responses end at the tokenizer's end token, and at those of generation_config.json. Raises ValueError without a chat
  template or an end token, and errors as `core.decoder.load`.
  """
  folder = store.folder(path)
  tokenizer = load_tokenizer(folder)
  stops = generation.ends(folder, tokenizer.eos_token_id)
  if not stops or tokenizer.chat_template is None:
    template = 'no' if tokenizer.chat_template is None else 'a'
    raise ValueError(f'{folder}: the tokenizer has {len(stops)} end tokens and {template} chat template; expected both')
  config, weights = decoder.load(folder, mesh=place, dtype='float32')
  return TextPolicy(config, tokenizer, stops), weights
