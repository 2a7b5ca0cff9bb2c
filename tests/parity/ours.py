"""Everything our models compute, under the names `reference.run` uses, and how far the two may be apart."""

import pathlib
import tempfile

import jax
import numpy as np
from safetensors.numpy import load_file

import internvl.files.checkpoint
import internvl.model
import internvl.vision
from core import decoder
from core.decoder import hf
from core.engine import generate
from core.engine.sampling import Sampling
from core.files import weights
from core.files.config import read_json

ACTIVATION = 1e-4  # max abs, where the activations are of the order of one or more
LOSS = 1e-5
GRADIENT, ROUTER_GRADIENT = 1e-4, 5e-4  # relative L2 of each tensor


def load(path, dtype=np.float32):
  """(config, params) of a published folder of either kind."""
  kind = read_json(path, 'config.json')['model_type']
  return (internvl.files.checkpoint if kind.startswith('internvl') else decoder).load(path, dtype=dtype)


def language(config):
  """The decoder's configuration."""
  return getattr(config, 'language', config)


def positions(x: dict) -> np.ndarray:
  """int32 [B, T], -1 at padding."""
  return np.where(x['mask'], x['mask'].cumsum(-1) - 1, -1).astype(np.int32)


def stages(params, config, x: dict, at: np.ndarray | None = None) -> dict[str, np.ndarray]:
  """Every stage's activations and the logits, padding zeroed."""
  at = positions(x) if at is None else at
  return _named(*jax.jit(lambda p: _run(p, config, x, at)[1:])(params), x)


def results(params, config, x: dict) -> tuple[dict, float, dict]:
  """(stages, mean next-token cross entropy over the supervised targets, its gradients under the published names)."""
  targets, mask = np.roll(x['tokens'], -1, 1), np.roll(x['supervised'], -1, 1)

  def loss(params):
    hidden, *seen = _run(params, config, x, positions(x))
    logp, _ = decoder.log_probs(getattr(params, 'language', params), language(config), hidden, targets)
    return -(logp * mask).sum() / mask.sum(), seen

  (value, seen), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  return _named(*seen, x), float(value), published(grads, config)


def _run(params, config, x, at):
  """(hidden, logits, what the taps kept, the stages before the decoder)."""
  if 'pixels' not in x:
    out = decoder.forward(params, config, decoder.embed(params, x['tokens']), positions=at, keep=('resid_out',))
    return out.hidden, decoder.logits(params, config, out.hidden), out.kept, {}
  images, kept = internvl.model.encode(params, config, x['pixels'], keep=('vision.resid_out',))
  rows = internvl.model.embed(params, config, x['tokens'], images)
  out = decoder.forward(params.language, config.language, rows, positions=at, keep=('resid_out',))
  early = {'vision.embed': internvl.vision.embed(params.vision, config.vision, x['pixels']), 'projector': images}
  return out.hidden, decoder.logits(params.language, config.language, out.hidden), kept | out.kept, early


def _named(logits, kept, out, x) -> dict[str, np.ndarray]:
  mask = x['mask'][..., None]
  out |= {f'block.{i}': a * mask for i, a in enumerate(kept['resid_out'])}
  out |= {f'vision.block.{i}': a for i, a in enumerate(kept.get('vision.resid_out', ()))}
  return {k: np.asarray(v) for k, v in (out | {'logits': logits * mask}).items()}


def published(tree, config) -> dict[str, np.ndarray]:
  """A tree in the shape of the parameters as the tensors of our published file."""
  with tempfile.TemporaryDirectory() as folder:
    if language(config) is config:
      weights.save(folder, tree, hf.names(config), decoder.spec(config))
    else:
      weights.save(folder, tree, internvl.files.checkpoint.names(config, 'B'), internvl.model.spec(config))
    return load_file(pathlib.Path(folder) / 'model.safetensors')


def greedy(params, config, x: dict, new: int) -> np.ndarray:
  """The ids we append greedily, [B, new]."""
  rows, text, start = x['tokens'], params, positions(x)
  if 'pixels' in x:
    images, _ = internvl.model.encode(params, config, x['pixels'])
    rows, text = internvl.model.embed(params, config, x['tokens'], images), params.language
  out = generate.prompted(text, language(config), rows, start, max_new=new, sampling=Sampling.of(len(start)))
  out.advance()
  return np.stack(out.rows())


def stage_excess(got: dict, want: dict) -> dict[str, float]:
  """Each stage's largest error over what is allowed. A stream smaller than one must agree in proportion."""
  assert got.keys() == want.keys()
  return {k: float(np.abs(got[k] - want[k]).max() / (ACTIVATION * min(1.0, np.abs(want[k]).max()))) for k in want}


def gradient_excess(got: dict, want: dict) -> dict[str, float]:
  """Each gradient's relative L2 error over what is allowed."""
  assert got.keys() == want.keys()
  router = ('mlp.gate.weight', 'router.weight', 'router.bias')
  allowed = lambda name: ROUTER_GRADIENT if name.endswith(router) else GRADIENT
  # Some gradients are zero except for rounding (the softmax ignores a constant added to all keys), so the error of a
  # gradient with a tiny norm is relative to the largest norm.
  floor = 1e-4 * max(np.linalg.norm(w) for w in want.values())
  return {k: float(np.linalg.norm(got[k] - w) / max(np.linalg.norm(w), floor) / allowed(k)) for k, w in want.items()}
