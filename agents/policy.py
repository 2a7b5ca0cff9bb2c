"""A language model that converses with tools, as a policy; the tiny one and published ones."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from agents.rollout.problems import PHRASES
from agents.rollout.protocol import END, PREAMBLE, TAGS, WRITTEN, Protocol, python_schema, system_text
from core import decoder
from core.files.tokenizers import TextEncoder, byte_tokenizer, load_tokenizer
from core.mesh import Mesh
from rl.policy import PLAIN, Reading, text
from rl.policy.text import TextPolicy, TextPrompt, check_text_only


@dataclasses.dataclass(frozen=True, eq=False)
class ToolPolicy(TextPolicy):
  """A `TextPolicy` whose prompts follow a tool protocol."""

  protocol: Protocol

  def prompt(self, messages: Sequence[dict], images: Sequence[Any] = (), reading: Reading = PLAIN) -> TextPrompt:
    """A problem, the text of the last turn, up to where the assistant begins."""
    check_text_only(images, reading)
    return TextPrompt(np.array(self.protocol.prompt(messages[-1]['content']), np.int32))

  @functools.cached_property
  def _encode(self) -> TextEncoder:
    """Encodes what the policy says: its tags are tags, the marks of turns and of tools are text."""
    return TextEncoder(self.tokenizer, structural=TAGS, markup=(*WRITTEN, *PHRASES))

  def text(self, tokens: Sequence[int]) -> str:
    """The text of sampled tokens, tags kept, without the end of the turn."""
    return self.protocol.said(tokens)


def load(model: str, tool: str, place: Mesh, *, seed: int = 0) -> tuple[ToolPolicy, decoder.Params]:
  """(policy, float32 weights on the mesh `place`) of a checkpoint folder, or of 'tiny', drawn with `seed`."""
  if model == 'tiny':
    protocol = Protocol(byte_tokenizer([*TAGS, *PHRASES], eos=END, pad=END), markup=PHRASES)
    plain, weights = text.from_scratch(protocol.tokenizer, seed, place)
    return ToolPolicy(plain.config, protocol.tokenizer, (protocol.stop_id,), protocol), weights
  protocol = Protocol(load_tokenizer(model), system=system_text([python_schema(tool)]), preamble=PREAMBLE)
  config, weights = decoder.load(model, mesh=place, dtype='float32')
  return ToolPolicy(config, protocol.tokenizer, (protocol.stop_id,), protocol), weights
