"""A folder as diffusers publishes it (FLUX.1, SD3, SD3.5) as a policy.

R images   T text tokens   Y, X, C rows, columns and channels of latents
"""

import dataclasses
import functools

import numpy as np
from PIL import Image

from core.files.store import FolderPath
from core.mesh import Mesh
from rl.flow import generation, mmdit, prompts
from rl.flow.files import pipeline
from rl.flow.policy import FlowPolicy, FlowPrompt, PathOptions

KNOWN = 4096  # prompts whose encodings are kept


@dataclasses.dataclass(frozen=True)
class Size:
  """height, width: pixels of an image. tokens: that T5 reads, None for as many as the published pipelines."""

  height: int
  width: int
  tokens: int | None = None


def load(
  path: FolderPath, options: PathOptions, size: Size, *, rows: int = 8, mesh: Mesh | None = None, dtype=None
) -> tuple[FlowPolicy, mmdit.Params]:
  """(policy, float32 weights of its transformer on `mesh`). rows: images that are sampled or decoded at a time.

  dtype: of the frozen text encoders; None keeps that of the files. Raises ValueError for sizes that the models cannot
  make, before weights are read, and core.files.store.CheckpointError as `pipeline.load_generator`.
  """
  config, autoencoder = pipeline.read_configs(path)
  generation.check_size(config, autoencoder, size.height, size.width)
  generator = pipeline.load_generator(path, mesh=mesh, dtype='float32')
  texts = pipeline.load_texts(path, mesh=mesh, dtype=dtype)
  factor = autoencoder.factor
  policy = FlowPolicy(
    config=config,
    options=options,
    latent=(size.height // factor, size.width // factor, config.channels),
    encode=functools.lru_cache(KNOWN)(functools.partial(encode, texts, config.text, size.tokens)),
    decode=functools.partial(decode, generator.vae, rows),
    rows=rows,
  )
  return policy, generator.transformer.params


def encode(texts: pipeline.Texts, width: int, tokens: int | None, text: str) -> FlowPrompt:
  """A prompt as the transformer reads it. Several tokenizers made it, so it has a length and no ids of its own."""
  condition = prompts.encode(texts, [text], width=width, tokens=tokens)
  context = np.asarray(condition.context[0], np.float32)
  pooled = np.asarray(condition.pooled[0], np.float32)
  return FlowPrompt(text=text, tokens=np.zeros(len(context), np.int32), context=context, pooled=pooled)


def decode(coder: pipeline.Part, rows: int, latents: np.ndarray) -> list[Image.Image]:
  """Images of latents float32 [R, Y, X, C], `rows` at a time: one program for any R."""
  images = []
  for at in range(0, len(latents), rows):
    part = latents[at : at + rows]
    full = np.pad(part, ((0, rows - len(part)), *[(0, 0)] * 3))
    decoded = generation.to_bytes(generation.run_decoder(coder.params, coder.config, full))
    images += [Image.fromarray(image) for image in decoded[: len(part)]]
  return images
