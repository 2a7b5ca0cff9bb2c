"""A folder as diffusers publishes it (FLUX.1, SD3, SD3.5) as a policy.

R images   T text tokens   Y, X, C rows, columns and channels of latents
"""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
from PIL import Image

from core import mesh as mesh_lib
from core.files.store import FolderPath
from core.mesh import Mesh
from rl.flow import generation, mmdit, prompts
from rl.flow.files import pipeline
from rl.flow.policy import FlowPolicy, FlowPrompt, PathOptions
from rl.flow.published.encodings import Encode, Encodings

KNOWN = 64  # encodings in memory, of 8 MB each at the published sizes


@dataclasses.dataclass(frozen=True)
class Size:
  """height, width: pixels of an image. tokens: that T5 reads, None for as many as the published pipelines."""

  height: int
  width: int
  tokens: int | None = None


def load(
  path: FolderPath,
  options: PathOptions,
  size: Size,
  *,
  rows: int = 8,
  mesh: Mesh | None = None,
  home: Mesh | None = None,
  dtype=None,
  kept: pathlib.Path | None = None,
) -> tuple[FlowPolicy, mmdit.Params]:
  """(policy, float32 weights of its transformer on `mesh`). rows: images that are sampled or decoded at a time.

  home: the mesh of the engine, where text encoders and autoencoder run; `mesh` by default. dtype: of the frozen text
  encoders; None keeps that of the files. kept: folder for the encodings of prompts; the text encoders are loaded at the
  first prompt that is not there. Raises ValueError for sizes that the models cannot make, before weights are read, and
  core.files.store.CheckpointError as `pipeline.load_generator`.
  """
  config, autoencoder = pipeline.read_configs(path)
  generation.check_size(config, autoencoder, size.height, size.width)
  home = home or mesh or mesh_lib.make(devices=jax.devices()[:1])
  generator = pipeline.load_generator(path, mesh=mesh or home, coder_mesh=home, dtype='float32')

  def load_encoder() -> Encode:
    texts = pipeline.load_texts(path, mesh=home, dtype=dtype)
    return functools.partial(encode, texts, config.text, size.tokens, home)

  if kept is None:
    encoded = load_encoder()
  else:
    encoded = Encodings(kept, f'{path}, {size.tokens} tokens, {dtype}', load_encoder, home)
  factor = autoencoder.factor
  policy = FlowPolicy(
    config=config,
    options=options,
    latent=(size.height // factor, size.width // factor, config.channels),
    encode=functools.lru_cache(KNOWN)(encoded),
    decode=functools.partial(decode, generator.vae, rows, home),
    rows=rows,
  )
  return policy, generator.transformer.params


def encode(texts: pipeline.Texts, width: int, tokens: int | None, home: Mesh, text: str) -> FlowPrompt:
  """A prompt as the transformer reads it. Several tokenizers made it, so it has a length and no ids of its own."""
  with jax.set_mesh(home):
    condition = prompts.encode(texts, [text], width=width, tokens=tokens)
  context = np.float32(mesh_lib.to_local(condition.context)[0])
  pooled = np.float32(mesh_lib.to_local(condition.pooled)[0])
  return FlowPrompt(text=text, tokens=np.zeros(len(context), np.int32), context=context, pooled=pooled)


def decode(coder: pipeline.Part, rows: int, home: Mesh, latents: np.ndarray) -> list[Image.Image]:
  """Images of latents float32 [R, Y, X, C], `rows` at a time: one program for any R."""
  images = []
  for at in range(0, len(latents), rows):
    part = latents[at : at + rows]
    full = np.pad(part, ((0, rows - len(part)), *[(0, 0)] * 3))
    with jax.set_mesh(home):
      pixels = generation.run_decoder(coder.params, coder.config, full)
    decoded = generation.to_bytes(mesh_lib.to_local(pixels))
    images += [Image.fromarray(image) for image in decoded[: len(part)]]
  return images
