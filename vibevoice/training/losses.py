"""What a TTS model learns: each frame's latent by diffusion, and text and control tokens by cross-entropy.

The sequence is a prompt, a slot for each frame of speech, END and EOS (`vibevoice.inputs.prompt`). The hidden state one
position before a frame's slot conditions the head: the slot's own would hold the answer.

B batch   T time   F frames   C acoustic latent   S semantic width   D language width   M draws of noise a frame
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import decoder
from core.mesh import RULES
from core.params import cast
from core.training.steps import Loss
from vibevoice import diffusion, model
from vibevoice.config import Config
from vibevoice.diffusion.schedule import TRAIN_STEPS, signal_levels

# What the papers train: tokenizers and scaling are constants.
TRAINABLE = r'(language|head|acoustic_connector|semantic_connector)\..*'


@struct.dataclass(kw_only=True)
class Batch:
  """Rows of a training batch. latents: scaled, of all slots of a row in order, voice prompts as well as targets.

  The weights sum to 1 over a whole batch, as `weigh` makes them: sums over micro-batches are then means.
  """

  tokens: Any  # int32 [B, T]
  positions: Any  # int32 [B, T], -1 at padding
  latents: Any  # float32 [B, F, C]
  semantic: Any  # float32 [B, F, S]
  target: Any  # bool [B, F]: frames to learn, not those of voice prompts, nor padding
  token_weights: Any = None  # float32 [B, T], of predicting the token at t; 0 where nothing is to be learned
  frame_weights: Any = None  # float32 [B, F]
  row_weights: Any = None  # float32 [B]


@dataclasses.dataclass(frozen=True)
class Weights:
  """How much each part counts; published fine-tuning uses 0.04 and 1.4."""

  ce: float = 1.0
  diffusion: float = 1.0


def weigh(config: Config, batch: Batch, *, slots: bool = False) -> Batch:
  """The batch with its weights: equal for all labels and for all target frames of the batch (numpy).

  Slots are no labels, so cross-entropy teaches where speech ends but not that it continues; slots=True makes labels of
  the target slots too. Raises ValueError when a row has more target frames than slots.
  """
  tokens = np.asarray(batch.tokens)
  is_slot = tokens == config.slot
  _check_slots(is_slot, np.asarray(batch.target))
  labels = (np.asarray(batch.positions) >= 0) & ~is_slot
  labels[:, 0] = False  # nothing predicts the first token
  if slots:
    labels |= _target_slots(is_slot, np.asarray(batch.target))
  rows = len(tokens)
  return batch.replace(
    token_weights=_shares(labels),
    frame_weights=_shares(np.asarray(batch.target)),
    row_weights=np.full(rows, 1 / rows, np.float32),
  )


def _check_slots(is_slot: np.ndarray, target: np.ndarray) -> None:
  last_target = target.shape[1] - target[:, ::-1].argmax(1)
  wanted = np.where(target.any(1), last_target, 0)
  for row in np.flatnonzero(is_slot.sum(1) < wanted):
    raise ValueError(f'row {row}: {is_slot[row].sum()} slots; expected {wanted[row]}, one for each frame')


def _target_slots(is_slot: np.ndarray, target: np.ndarray) -> np.ndarray:
  """bool [B, T]: the slots of target frames."""
  rank = np.clip(is_slot.cumsum(1) - 1, 0, target.shape[1] - 1)
  return is_slot & np.take_along_axis(target, rank, 1)


def _shares(mask: np.ndarray) -> np.ndarray:
  return (mask / max(mask.sum(), 1)).astype(np.float32)


@struct.dataclass
class Draws:
  """The random part of the diffusion loss. noise: float32 [M, B, F, C]. timesteps: int32 [M, B, F], 0 to 999."""

  noise: Any
  timesteps: Any


def draw(key: jax.Array, latents: jax.Array, repeats: int = 4) -> Draws:
  """M = `repeats` draws of noise and a uniform timestep for each frame of latents [B, F, C]."""
  noise_key, time_key = jax.random.split(key)
  shape = (repeats, *latents.shape)
  noise = jax.random.normal(noise_key, shape)
  return Draws(noise=noise, timesteps=jax.random.randint(time_key, shape[:-1], 0, TRAIN_STEPS))


def tts(
  params: model.Params,
  config: Config,
  batch: Batch,
  draws: Draws,
  *,
  weights: Weights = Weights(),
  prompt_semantic: bool = False,
  dtype=jnp.float32,
  remat_policy: str = 'none',
  rules=RULES,
) -> Loss:
  """weights.ce · cross-entropy + weights.diffusion · diffusion loss, both means over the whole batch.

  prompt_semantic: voice prompts carry semantic features too, as one public trainer has it; inference has none there.
  dtype: of the computation; parameters keep their own, and both losses are float32.
  """
  params = cast(params, dtype)
  spoken = None if prompt_semantic else batch.target
  frames = model.Frames(batch.latents, semantic=batch.semantic, spoken=spoken)
  options = {'positions': batch.positions, 'remat_policy': remat_policy, 'rules': rules}
  out = model.forward(params, config, batch.tokens, frames, **options)
  ce = weights.ce * _cross_entropy(params, config, out.hidden, batch, rules)
  condition = conditions(out.hidden, batch.tokens == config.slot, batch.latents.shape[1])
  errors = diffusion_errors(params.head, config, batch.latents, condition, draws, remat_policy=remat_policy)
  diffused = weights.diffusion * jnp.sum(errors * batch.frame_weights)
  rows = jnp.sum(batch.row_weights)
  return Loss(ce + diffused, rows, {'ce': (ce, rows), 'diffusion': (diffused, rows)})


def _cross_entropy(params: model.Params, config: Config, hidden: jax.Array, batch: Batch, rules) -> jax.Array:
  targets = batch.tokens[:, 1:]
  before = hidden[:, :-1]
  logp, _ = decoder.log_probs(params.language, config.language, before, targets, rules=rules)
  return -jnp.sum(batch.token_weights[:, 1:] * logp)


def conditions(hidden: jax.Array, slots: jax.Array, frames: int) -> jax.Array:
  """What conditions each frame: hidden states [B, F, D] one position before the row's slots, bool [B, T], in order.

  A frame without a slot gets some hidden state of its row.
  """
  reached = jnp.cumsum(slots, 1)
  wanted = jnp.arange(1, frames + 1)
  at = jax.vmap(lambda counts: jnp.searchsorted(counts, wanted))(reached)
  before = jnp.maximum(at - 1, 0)
  return jnp.take_along_axis(hidden, before[..., None], 1, mode='clip')


def diffusion_errors(
  head, config: Config, latents: jax.Array, condition: jax.Array, draws: Draws, *, remat_policy: str = 'none'
) -> jax.Array:
  """Mean squared error of the predicted velocity, float32 [B, F], over channels and draws of noise.

  latents [B, F, C], condition [B, F, D]. All frames are one batch of the head: none sees another. remat_policy: draws
  are computed one after the other, each once more in the backward pass; 'none' computes all of them at once.
  """

  def errors(draw: Draws) -> jax.Array:
    noisy, velocity = _diffused(latents.astype(jnp.float32), draw)
    predicted = diffusion.velocity(
      head,
      config.head,
      noisy.reshape(-1, noisy.shape[-1]).astype(condition.dtype),
      draw.timesteps.reshape(-1),
      condition.reshape(-1, condition.shape[-1]),
    )
    predicted = predicted.reshape(velocity.shape).astype(jnp.float32)
    return jnp.mean((predicted - velocity) ** 2, -1)

  if remat_policy == 'none':
    return jnp.mean(jax.vmap(errors)(draws), 0)
  return jnp.mean(jax.lax.map(jax.checkpoint(errors), draws), 0)


def _diffused(latents: jax.Array, draws: Draws) -> tuple[jax.Array, jax.Array]:
  """(x_t = √ᾱ y + √(1-ᾱ) ε, v = √ᾱ ε - √(1-ᾱ) y) at the drawn timesteps."""
  level = jnp.asarray(signal_levels())[draws.timesteps][..., None]
  signal = jnp.sqrt(level)
  noise = jnp.sqrt(1 - level)
  return signal * latents + noise * draws.noise, signal * draws.noise - noise * latents
