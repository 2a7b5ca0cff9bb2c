"""Which tokens may come next: suppression and the grammar of timestamps, as two sets of rules published them.

'openai' is openai/whisper's, 'transformers' that library's, which takes its lists from the checkpoint.

R rows   V vocabulary   N response slots
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from interp.whisper.processor import TIMESTAMPS_A_SECOND, Processor

NAMES = ('openai', 'transformers')
OPENAI_INITIAL = TIMESTAMPS_A_SECOND  # the first timestamp is at most 1 s


@struct.dataclass
class Rules:
  """banned: bool [V], always. banned_first: bool [V], as the first token. max_initial: index of a timestamp, or None.

  timestamps: whether the response has any.
  """

  banned: jax.Array
  banned_first: jax.Array
  eot: int = struct.field(pytree_node=False)
  no_timestamps: int = struct.field(pytree_node=False)
  first_timestamp: int = struct.field(pytree_node=False)
  timestamps: bool = struct.field(pytree_node=False)
  max_initial: int | None = struct.field(pytree_node=False)

  def __call__(self, logits: jax.Array, tokens: jax.Array, count: jax.Array) -> jax.Array:
    """float32 logits [R, V] with -inf at what may not follow the first `count` [R] of int32 tokens [R, N]."""
    banned = self.banned | (self.banned_first & (count == 0)[:, None])
    if not self.timestamps:
      return jnp.where(banned, -jnp.inf, logits)
    banned = banned | self._ungrammatical(logits.shape[-1], tokens, count)
    logits = jnp.where(banned, -jnp.inf, logits)
    # A timestamp comes if all of them together are likelier than the likeliest other token.
    logp = jax.nn.log_softmax(logits)
    time = jax.nn.logsumexp(logp[:, self.first_timestamp :], -1)
    text = logp[:, : self.first_timestamp].max(-1)
    ids = jnp.arange(logits.shape[-1])
    forced = (time > text)[:, None] & (ids < self.first_timestamp)
    return jnp.where(forced, -jnp.inf, logits)

  def _ungrammatical(self, vocab: int, tokens, count) -> jax.Array:
    """bool [R, V]: a timestamp opens the response, timestamps come in pairs and never decrease."""
    ids = jnp.arange(vocab)
    rows = jnp.arange(tokens.shape[0])
    is_time = ids >= self.first_timestamp
    last = (count >= 1) & (tokens[rows, count - 1] >= self.first_timestamp)
    before = (count < 2) | (tokens[rows, count - 2] >= self.first_timestamp)
    closed = (last & before)[:, None]  # after a pair, text
    opened = (last & ~before)[:, None]  # after text and a timestamp, a second one or the end
    banned = (ids == self.no_timestamps) | (closed & is_time) | (opened & (ids < self.eot))
    is_said = jnp.arange(tokens.shape[1]) < count[:, None]
    said = is_said & (tokens >= self.first_timestamp)
    latest = jnp.where(said, tokens, -1).max(-1)
    # The end of a segment is after its start, but the next one may start at that end.
    lowest = jnp.where(last & ~before, latest, latest + 1)
    banned |= is_time & (ids < jnp.where(said.any(-1), lowest, 0)[:, None])
    opening = ids < self.first_timestamp
    if self.max_initial is not None:
      opening |= ids > self.first_timestamp + self.max_initial
    return banned | (opening & (count == 0)[:, None])


def of(processor: Processor, vocab: int, *, name: str = 'openai', timestamps: bool = True) -> Rules:
  """The rules called `name` for a vocabulary of `vocab` tokens. Raises ValueError for an unknown name."""
  if name not in NAMES:
    raise ValueError(f'rules {name!r}; expected one of {list(NAMES)}')
  ids = processor.ids
  if name == 'openai':
    marks = (ids.sot, ids.translate, ids.transcribe, ids.sot_lm, ids.sot_prev, ids.no_speech)
    banned = (*processor.symbols(), *marks)
    banned_first = (*processor.encode(' '), ids.eot)
    initial = OPENAI_INITIAL
  else:
    banned = processor.suppress
    banned_first = processor.suppress_first
    initial = processor.max_initial_timestamp
  return Rules(
    banned=_mask(banned, vocab),
    banned_first=_mask(banned_first, vocab),
    eot=ids.eot,
    no_timestamps=ids.no_timestamps,
    first_timestamp=ids.first_timestamp,
    timestamps=timestamps,
    max_initial=initial,
  )


def _mask(ids, vocab: int) -> jax.Array:
  mask = np.zeros(vocab, bool)
  mask[list(ids)] = True
  return jnp.asarray(mask)


def text_compression(text: str) -> float:
  """Bytes of a text over its bytes compressed; above 2.4 it repeats itself (openai/whisper)."""
  raw = text.encode()
  return len(raw) / len(zlib.compress(raw))


def token_compression(tokens) -> float:
  """The same over token ids of two bytes each (transformers)."""
  raw = np.asarray(tokens, '<u2').tobytes()
  if raw:
    return len(raw) / len(zlib.compress(raw))
  return 0.0
