"""Answers of an InternVL policy through the segment engine, as arrays to train on.

B prompts   G answers to each   N answer slots
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from core import mesh
from core import params as weights
from core.engine import Engine, EngineSize, Request
from internvl import Processor, model
from internvl.features import Images
from internvl.inputs.processor import Inputs
from rl.policy import Answers


class Sampler:
  """An engine for the policy in `dtype` on the devices of `home`; `update` gives new weights.

  The processes of `home.mesh` share the engine: they make the same calls, and get the same answers.
  """

  def __init__(
    self,
    params: model.Params,
    config: model.Config,
    processor: Processor,
    room: EngineSize,
    home: mesh.Share,
    dtype='float32',
  ):
    self.home = home
    self._dtype, self._places = dtype, mesh.shardings(model.spec(config), home.whole)
    self._stop, self._image_token = processor.stop_id, config.image_token
    params = weights.cast(params, dtype)
    images = Images(params, config, home)
    sizes = dataclasses.asdict(room)
    self._engine = Engine(params.language, config.language, features=images, mesh=home, **sizes)

  def here(self, params: model.Params) -> model.Params:
    """The weights on the engine's devices, whatever becomes of the ones given."""
    return jax.device_put(weights.cast(params, self._dtype), self._places)

  def update(self, params: model.Params) -> None:
    """Samples from these weights from now on."""
    self._engine.update(weights.cast(params, self._dtype))

  def __call__(
    self,
    prompts: Sequence[Inputs],
    *,
    max_new: int,
    samples: int = 1,
    temperature: float = 0.0,
    top_k: int = 0,
    seeds: Sequence[int] | None = None,
  ) -> Answers:
    """`samples` answers to each prompt, host arrays [B, G, N]; answer g to prompt b draws with seeds[b] + g."""
    seeds = range(0, len(prompts) * samples, samples) if seeds is None else seeds
    for x, seed in zip(prompts, seeds, strict=True):
      images = [x.pixels] if (x.tokens == self._image_token).any() else []
      self._engine.submit(
        Request(
          x.tokens.tolist(),
          max_new,
          samples,
          stops=(self._stop,),
          temperature=temperature,
          top_k=top_k,
          seed=int(seed),
          media=images,
        )
      )
    done = self._engine.run()
    tokens, logp = np.zeros((len(done), max_new), np.int32), np.zeros((len(done), max_new), np.float32)
    mask = np.zeros(tokens.shape, bool)
    for row, answer in enumerate(done):
      n = len(answer.tokens)
      tokens[row, :n], logp[row, :n], mask[row, :n] = answer.tokens, answer.logp, True
    return Answers(*(x.reshape(len(prompts), samples, max_new) for x in (tokens, logp, mask)))
