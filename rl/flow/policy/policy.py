"""A flow transformer as `rl.policy.Policy` describes one.

B groups   G images of a group   M trained steps   K = B·G·M   T text tokens
Y, X, C rows, columns and channels of latents
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.engine import EngineSize
from core.mesh import RULES, Mesh, Share
from rl.flow import mmdit, sampling
from rl.flow.files import transformer
from rl.flow.policy.engine import PathEngine
from rl.flow.policy.options import PathOptions
from rl.flow.policy.trajectory import FlowInputs, FlowPrompt, FlowTrajectory
from rl.flow.sampling import Step
from rl.flow.velocity import Condition, velocity
from rl.policy import layouts
from rl.policy.base import PLAIN, Reading
from rl.policy.layouts import Layout, Slots


@dataclasses.dataclass(frozen=True, eq=False)
class FlowPolicy:
  """A transformer, how prompts are encoded, how paths are sampled and how latents become images.

  latent: (Y, X, C). encode(text) -> FlowPrompt, always of the same number of tokens. decode(latents float32
  [R, Y, X, C]) -> R images, what rewards are given. rows: images that are sampled at a time.
  """

  config: mmdit.Config
  options: PathOptions
  latent: tuple[int, int, int]
  encode: Callable[[str], FlowPrompt]
  decode: Callable[[np.ndarray], Sequence[Any]]
  rows: int = 64

  stops = ()
  max_length = 2**31 - 1

  def __post_init__(self):
    if self.two_passes:
      _ = self._nothing  # now: while a program is traced, no encoder can run

  @functools.cached_property
  def _nothing(self) -> tuple[np.ndarray, np.ndarray]:
    """(context [1, T, D], pooled [1, P]) of the empty prompt."""
    empty = self.encode('')
    return empty.context[None], empty.pooled[None]

  def spec(self) -> mmdit.Params:
    """As of `rl.policy.Policy`."""
    return mmdit.spec(self.config)

  def prompt(self, messages: Sequence[dict], images: Sequence[Any] = (), reading: Reading = PLAIN) -> FlowPrompt:
    """As of `rl.policy.Policy`: the text of the last turn. Raises ValueError for images and for another reading."""
    if images or reading != PLAIN:
      raise ValueError(f'a query has {len(images)} images, {reading}: expected a text alone')
    return self.encode(str(messages[-1]['content']))

  def engine(self, weights: mmdit.Params, size: EngineSize, home: Mesh | Share) -> PathEngine:
    """A sampler of paths; `size` is of engines that keep a cache."""
    return PathEngine(self, weights, home, self.rows)

  def slots(self, groups: Sequence[Sequence[FlowTrajectory]], layout: Layout) -> Slots:
    """As of `rl.policy.Policy`. Raises ValueError for a layout other than 'shared'."""
    if layout != 'shared':
      raise ValueError(f"layout={layout!r}: a flow policy has 'shared' alone")
    return layouts.needs(groups, layout)

  def inputs(self, groups: Sequence[Sequence[FlowTrajectory]], layout: Layout, slots: Slots) -> FlowInputs:
    """As of `rl.policy.Policy`; slots without an image or a step hold step 0 of a latent of zeros."""
    size = {'samples': slots.samples, 'length': slots.response}
    latents = lambda name: layouts.spread(groups, lambda t: getattr(t, name), dtype=np.float32, **size)
    prompts = [group[0].prompt for group in groups]
    return FlowInputs(
      context=np.stack([prompt.context for prompt in prompts]),
      pooled=np.stack([prompt.pooled for prompt in prompts]),
      index=layouts.spread(groups, lambda t: t.tokens, dtype=np.int32, **size),
      states=latents('states'),
      following=latents('following'),
      means=latents('means'),
    )

  def velocity(
    self, weights: mmdit.Params, x: jax.Array, time: jax.Array, context: jax.Array, pooled: jax.Array, **options: Any
  ) -> jax.Array:
    """float32 [R, Y, X, C] of latents [R, Y, X, C] at times [R], with the guidance of `options`."""
    nothing = self._nothing if self.two_passes else None
    condition = Condition(context=context, pooled=pooled, nothing=nothing)
    return velocity(weights, self.config, x, time, condition, guidance=self.options.guidance, **options)

  def plain_velocity(
    self, weights: mmdit.Params, x: jax.Array, time: jax.Array, context: jax.Array, pooled: jax.Array, **options: Any
  ) -> jax.Array:
    """As `velocity`, without classifier-free guidance: what flow matching trains."""
    scale = self.options.guidance if self.config.guidance else 1.0
    condition = Condition(context=context, pooled=pooled)
    return velocity(weights, self.config, x, time, condition, guidance=scale, **options)

  @property
  def two_passes(self) -> bool:
    """Whether guidance takes a second pass, over an empty prompt."""
    return self.options.guidance != 1 and not self.config.guidance

  def moments(
    self, weights: mmdit.Params, inputs: FlowInputs, *, remat: str = 'none', rules: dict = RULES
  ) -> tuple[jax.Array, jax.Array]:
    """(means [K, Y, X, C], standard deviations [K]) of the steps' Gaussians under these weights, float32."""
    _, g, m = inputs.index.shape
    index = jnp.asarray(inputs.index).reshape(-1)
    schedule = self.options.schedule
    states = _rows(inputs.states)
    repeated = lambda x: jnp.repeat(jnp.asarray(x), g * m, 0)
    context = repeated(inputs.context)
    pooled = repeated(inputs.pooled)
    time = jnp.asarray(schedule.times)[index]
    v = self.velocity(weights, states, time, context, pooled, remat=remat, rules=rules)
    return sampling.moments(states, v, Step.at(schedule.levels, index), self.options.noise)

  def log_probs(
    self,
    weights: mmdit.Params,
    inputs: FlowInputs,
    *,
    temperature: float = 1.0,
    remat: str = 'none',
    rules: dict = RULES,
  ) -> tuple[jax.Array, None]:
    """(log-probability float32 [B, G, M], None) of the steps; the entropy of a step does not depend on the weights.

    With normalised ratios: the normalised log-ratio to the weights that sampled, which is 0 for those. Raises
    ValueError for a temperature, which a flow does not have.
    """
    if temperature != 1:
      raise ValueError(f'temperature={temperature}: expected 1, since the noise of a flow is its options.noise')
    mean, deviation = self.moments(weights, inputs, remat=remat, rules=rules)
    return self._scored(inputs, mean, deviation), None

  def _scored(self, inputs: FlowInputs, mean: jax.Array, deviation: jax.Array) -> jax.Array:
    following = _rows(inputs.following)
    if self.options.normalised:
      logp = sampling.normalised_log_ratio(following, _rows(inputs.means), mean, deviation)
    else:
      logp = sampling.log_prob(following, mean, deviation)
    return logp.reshape(inputs.index.shape)

  def reference(self, weights: mmdit.Params, inputs: FlowInputs) -> jax.Array:
    """The means float32 [B, G, M, Y, X, C] of the steps under reference weights."""
    mean, _ = self.moments(weights, inputs)
    return mean.reshape(inputs.states.shape)

  def divergent_log_probs(
    self, weights: mmdit.Params, inputs: FlowInputs, reference: jax.Array, *, remat: str = 'none', rules: dict = RULES
  ) -> tuple[jax.Array, jax.Array]:
    """(as `log_probs`, divergence float32 [B, G, M] of the steps' Gaussians from the reference's, by entry)."""
    mean, deviation = self.moments(weights, inputs, remat=remat, rules=rules)
    divergence = sampling.divergence(mean, _rows(reference), deviation)
    return self._scored(inputs, mean, deviation), divergence.reshape(inputs.index.shape)

  def shapes(self, groups: int, slots: Slots) -> FlowInputs:
    """As of `rl.policy.Policy`."""
    an = lambda dtype, *shape: jax.ShapeDtypeStruct((groups, *shape), dtype)
    steps = (slots.samples, slots.response)
    latents = an(np.float32, *steps, *self.latent)
    return FlowInputs(
      context=an(np.float32, slots.prompt, self.config.text),
      pooled=an(np.float32, self.config.pooled),
      index=an(np.int32, *steps),
      states=latents,
      following=latents,
      means=latents,
    )

  def save(self, path: str | os.PathLike, weights: mmdit.Params) -> None:
    """Writes the transformer as diffusers does."""
    transformer.save(path, self.config, weights)


def _rows(latents: Any) -> jax.Array:
  """[B, G, M, Y, X, C] as [K, Y, X, C]."""
  latents = jnp.asarray(latents)
  return latents.reshape(-1, *latents.shape[3:])
