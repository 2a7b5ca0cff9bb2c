"""What learning needs of a model: the `Policy` protocol, and what crosses it in each direction.

A query becomes a prompt, a prompt becomes requests to the engine, samples become trajectories, trajectories become the
inputs of a forward pass, and a forward pass gives the log-probabilities of sampled tokens. Nothing else of a model is
known to `rl`.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from core.engine import Engine, EngineSize, Request
from core.mesh import RULES, Mesh, Share
from core.plan import Part
from rl.policy.layouts import Layout, Slots


@dataclasses.dataclass(frozen=True)
class Draw:
  """How responses are drawn: at most `max_new` tokens each, the stop token included; temperature 0 is greedy."""

  max_new: int
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  min_p: float = 0.0


@dataclasses.dataclass(frozen=True)
class Reading:
  """How a conversation becomes a prompt.

  thinking: with the policy's system text for reasoning before the answer. max_tiles: limit of tiles an image; None: the
  policy's own. augment: seed of random changes to the images, so that a prompt is a function of its arguments; None:
  images as they are.
  """

  thinking: bool = False
  max_tiles: int | None = None
  augment: tuple[int, ...] | None = None


PLAIN = Reading()


class Prompt(Protocol):
  """What a policy is asked: a data class. A policy may add media, such as image tiles."""

  tokens: np.ndarray  # int32 [T]


@dataclasses.dataclass
class Trajectory:
  """One response to a prompt; tools may have written some of its tokens.

  tokens: int32 [N], what follows the prompt. mask: bool [N], true for the policy's own. logp: float32 [N], their
  log-probabilities as sampled. ended: whether the policy stopped by itself, not at a limit of length. response: what a
  reward is given, the text or a conversation. parent, segment, kind: as in `rl.advantages.Lineage`. weight: float32
  [N], what the loss of each token is multiplied by; None: 1.

  Of a policy that is no language model a token is one decision, such as a denoising step.
  """

  prompt: Any
  tokens: np.ndarray
  mask: np.ndarray
  logp: np.ndarray
  ended: bool = True
  response: Any = ''
  parent: int = -1
  segment: int = 0
  kind: int = 0
  weight: np.ndarray | None = None

  @classmethod
  def given(cls, prompt: Any, tokens: np.ndarray) -> 'Trajectory':
    """A response that was written, not sampled: the policy is to learn all of its tokens."""
    n = len(tokens)
    return cls(prompt, tokens, mask=np.ones(n, bool), logp=np.zeros(n, np.float32))


class Policy(Protocol):
  """A model as learning sees it. Weights are passed, never held: every method is a function of its arguments.

  A policy whose divergence from a reference is known exactly has two methods more: `reference(weights, inputs)`, and
  `divergent_log_probs(weights, inputs, reference, remat=…) -> (logp, divergence)`, both float32 of each token.
  """

  stops: tuple[int, ...]  # token ids that end a response
  max_length: int  # tokens of a prompt with its response

  def spec(self) -> Any:
    """The tree of `core.params.Spec`: weights, shardings and counts follow from it."""

  def prompt(self, messages: Sequence[dict], images: Sequence[Any] = (), reading: Reading = PLAIN) -> Prompt:
    """A conversation up to where the policy answers, of any length: whoever pads it decides what fits.

    Raises ValueError for media that the model cannot see, and for a reading that it does not offer.
    """

  def response(self, text: str) -> np.ndarray:
    """int32 [N]: what the policy would sample to say `text`, its stop token included.

    Special tokens written out in `text` stay plain text: they can end no turn and stand for no image.
    """

  def text(self, tokens: Sequence[int]) -> str:
    """What sampled tokens say, up to a stop token."""

  def requests(self, prompts: Sequence[Prompt], draw: Draw, *, samples: int, seeds: Sequence[int]) -> list[Request]:
    """What the engine is asked: `samples` responses to each prompt, sample g of prompt b drawn with seeds[b] + g."""

  def engine(self, weights: Any, size: EngineSize, home: Mesh | Share) -> Engine:
    """An engine that samples from these weights, in their dtype, on the devices of `home`."""

  def slots(self, groups: Sequence[Sequence[Trajectory]], layout: Layout) -> Slots:
    """The slots that these groups need in a layout."""

  def inputs(self, groups: Sequence[Sequence[Trajectory]], layout: Layout, slots: Slots) -> Any:
    """Host arrays for a forward pass over the trajectories. Raises ValueError where `slots` are too few."""

  def log_probs(
    self, weights: Any, inputs: Any, *, temperature: float = 1.0, remat: str = 'none', rules: dict = RULES
  ) -> tuple[jax.Array, jax.Array | None]:
    """(log-probability, entropy) float32 of each token of the layout, given those before it, at a temperature."""

  def shapes(self, groups: int, slots: Slots) -> Any:
    """The shapes and dtypes of `inputs` in the shared layout, for plans."""

  def parts(self, groups: int, slots: Slots) -> tuple[Part, ...]:
    """What a plan counts of an update in the shared layout."""

  def save(self, path: str | os.PathLike, weights: Any) -> None:
    """Writes a checkpoint folder from which the factory loads this policy again."""
