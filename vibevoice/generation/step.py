"""One step of generation: a token for each row and, where it is a slot of speech, a frame of audio.

Every row is computed in every step, and rows that a part does not concern keep their state by selection, bit for bit.
B rows   C latent   D width   N samples of a frame
"""

import jax
import jax.numpy as jnp

from core import conv, decoder
from core.engine.sampling import pick
from core.params import dense
from core.past import rows as rows_lib
from vibevoice import model, scaling
from vibevoice.config import Config
from vibevoice.diffusion import Guidance, diffusion_head
from vibevoice.generation.noise import frame_noise
from vibevoice.generation.state import Frame, Settings, State
from vibevoice.tokenizer import decoder as acoustic
from vibevoice.tokenizer import encoder as semantic


def frame_step(params: model.Params, config: Config, state: State, settings: Settings) -> tuple[State, Frame]:
  """(state, frame) after one token of each row that is not finished."""
  active = ~state.finished
  guided = settings.scale is not None
  positive, negative, cache = _language(params, config, state, guided=guided)
  token, failed = _choose(params, config, positive, state, settings)
  failed = active & failed
  active = active & ~failed
  token = jnp.where(active, token, config.eos)
  speaks = token == config.slot
  starts = token == config.start
  cache = _commit(cache, state.cache, active, speaks=speaks, starts=starts, guided=guided)
  latents = _latents(params, config, positive, negative, state, settings)
  samples, heard, streams = _hear(params, config, latents, state, speaks=speaks, ends=token == config.end)
  spoken = model.embed_frames(params, latents[:, None], heard)[:, 0]
  written = decoder.embed(params.language, token[:, None])[:, 0]
  spoken = spoken.astype(written.dtype)
  following = jnp.where(speaks[:, None], spoken, written)
  embedding = jnp.where(active[:, None], following, state.embedding)
  steps = state.steps + active
  over = active & (token != config.eos) & (steps >= settings.limit)
  after = State(
    cache=cache,
    embedding=embedding,
    decoder=streams[0],
    encoder=streams[1],
    frames=state.frames + speaks,
    steps=steps,
    finished=(token == config.eos) | over,
    truncated=state.truncated | over,
    failed=state.failed | failed,
  )
  return after, Frame(samples=samples, latents=latents, tokens=token, spoken=speaks)


def _language(params: model.Params, config: Config, state: State, *, guided: bool):
  """Hidden states [B, D] of the positive and the negative branch, and the cache with the embedding they consumed.

  Both branches are rows of one batch, which reads the weights once. The negative branch consumes it before it is known
  whether this step speaks; `_commit` takes it back where not.
  """
  copies = 2 if guided else 1
  x = jnp.tile(state.embedding, (copies, 1))[:, None]
  active = jnp.tile(~state.finished, copies)
  positions = jnp.where(active, state.cache.length, -1)[:, None]
  out = decoder.forward(params.language, config.language, x, positions=positions, cache=state.cache)
  positive, *negative = jnp.split(out.hidden[:, 0], copies)
  return positive, negative[0] if guided else None, out.cache


def _choose(params: model.Params, config: Config, hidden: jax.Array, state: State, settings: Settings):
  """(token int32 [B], bool [B] where the logits are NaN): one of the four tokens that speech consists of.

  Only their logits are computed: the vocabulary is masked before anything is drawn.
  """
  allowed = sorted({config.start, config.end, config.slot, config.eos})  # of equal logits the least id wins
  ids = jnp.asarray(allowed, jnp.int32)
  language = params.language
  if language.head is None:
    table = language.embed[ids]
  else:
    table = dense(language.head)[:, ids].T
  logits = jnp.einsum('bd,vd->bv', hidden, table, preferred_element_type=jnp.float32)
  choice, logp = pick(logits, settings.sampling, state.steps)
  token = ids[choice]
  if settings.given.tokens is not None:
    token = _at(settings.given.tokens, state.steps)
  return token, jnp.isnan(logp)


def _at(array: jax.Array, index: jax.Array) -> jax.Array:
  """array[b, index[b]] of each row, of [B, n, ...]; beyond the end the last."""
  rows, length = array.shape[:2]
  known = jnp.minimum(index, length - 1)
  return array[jnp.arange(rows), known]


def _commit(new, old, active, *, speaks, starts, guided: bool):
  """The cache after the step: the negative branch keeps what it consumed only where speech advances, and a new segment
  starts it empty."""
  if not guided:
    return rows_lib.select(active, new, old)
  kept = rows_lib.select(jnp.concatenate([active, speaks]), new, old)
  never = jnp.zeros_like(starts)
  return rows_lib.reset(kept, jnp.concatenate([never, starts]))


def _latents(params: model.Params, config: Config, positive, negative, state: State, settings: Settings) -> jax.Array:
  """Scaled latents [B, C] of the frame after hidden states [B, D]."""
  if settings.given.noise is not None:
    noise = _at(settings.given.noise, state.frames)
  else:
    noise = frame_noise(settings.sampling.seed, state.frames, config.head.latent)
  guidance = None
  if negative is not None:
    guidance = Guidance(scale=settings.scale, negative=negative)
  noise = noise.astype(positive.dtype)
  return diffusion_head(params.head, noise, positive, settings.solver, guidance=guidance, eps=config.head.eps)


def _hear(params: model.Params, config: Config, latents: jax.Array, state: State, *, speaks, ends):
  """(samples float32 [B, N], semantic features [B, 1, S], both streams) of latents [B, C].

  Rows that do not speak keep their streams; those whose segment ends begin new ones.
  """
  z = scaling.to_tokenizer(params.scaling, latents[:, None])
  samples, said = acoustic.apply(params.acoustic.decoder, config.acoustic, z, state.decoder)
  heard, understood = semantic.apply(params.semantic.encoder, config.semantic, samples, state.encoder)
  streams = []
  for new, old in ((said, state.decoder), (understood, state.encoder)):
    streams.append(conv.reset(ends, conv.select(speaks, new, old)))
  return samples, heard, streams
