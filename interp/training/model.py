"""A small Whisper: its vocabulary, its sizes, and the loss of a batch of clips (arXiv 2212.04356, section 2.2).

B clips   n samples   T tokens
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import padding
from core.files.tokenizers import word_tokenizer
from core.training.steps import Loss
from interp.training.speech import WORDS
from interp.whisper import Config as ModelConfig
from interp.whisper import frontend, model
from interp.whisper.config import RATE
from interp.whisper.processor import TIMESTAMPS_A_SECOND, Processor

if TYPE_CHECKING:
  from transformers import PreTrainedTokenizerFast

HEADS = 4
SECONDS = 3  # of a window
TEXT = 24  # tokens of prompt and text
MERGED = 64  # tokens of several bytes, at most: each word of the domain is one
MARKS = (
  '<|endoftext|>',
  '<|startoftranscript|>',
  '<|en|>',
  '<|translate|>',
  '<|transcribe|>',
  '<|startoflm|>',
  '<|startofprev|>',
  '<|nospeech|>',
  '<|notimestamps|>',
)


@struct.dataclass
class Batch:
  """samples: float32 [B, n]. tokens: int32 [B, T], prompt, text, end. weights: float32 [B, T], 1 at what is learned."""

  samples: Any
  tokens: Any
  weights: Any


def vocabulary() -> 'PreTrainedTokenizerFast':
  """Bytes, merged to the words of the domain, then marks and times as in an English-only Whisper."""
  times = [f'<|{i / TIMESTAMPS_A_SECOND:.2f}|>' for i in range(SECONDS * TIMESTAMPS_A_SECOND + 1)]
  marks = [*MARKS, *times]
  corpus = [f' {word}' for word in WORDS]
  return word_tokenizer(corpus, marks, size=256 + MERGED + len(marks))


def config(vocab: int, *, width: int, depth: int, mels: int) -> ModelConfig:
  """Sizes for a vocabulary."""
  return ModelConfig(
    width=width,
    heads=HEADS,
    encoder_depth=depth,
    decoder_depth=depth,
    vocab=vocab,
    mels=mels,
    audio_length=SECONDS * TIMESTAMPS_A_SECOND,
    text_length=TEXT,
  )


def batch(processor: Processor, clips: Sequence[tuple[np.ndarray, str]]) -> Batch:
  """A batch of clips (samples [n], text) of one length (numpy)."""
  prompt = processor.prompt(timestamps=False)
  texts = [[*processor.encode(f' {text}'), processor.ids.eot] for _, text in clips]
  rows = [[*prompt, *text] for text in texts]
  weights = [[0.0] * len(prompt) + [1.0] * len(text) for text in texts]
  return Batch(
    samples=np.stack([samples for samples, _ in clips]),
    tokens=padding.batch(rows, dtype=np.int32, length=TEXT, fill=processor.ids.eot),
    weights=padding.batch(weights, dtype=np.float32, length=TEXT),
  )


def loss(params: model.Params, c: ModelConfig, b: Batch) -> Loss:
  """Cross-entropy of each token of the text and its end; `right` is the share that is the likeliest."""
  mel = frontend.log_mels(b.samples, c.mels)
  logits = model.apply(params, c, mel, b.tokens[:, :-1]).logits
  labels, weights = b.tokens[:, 1:], b.weights[:, 1:]
  logp = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(logp, labels[..., None], -1)[..., 0]
  right = (logits.argmax(-1) == labels) * weights
  weight = weights.sum()
  return Loss(total=-(chosen * weights).sum(), weight=weight, metrics={'right': (right.sum(), weight)})


def window_samples() -> int:
  """Samples of a window."""
  return SECONDS * RATE
