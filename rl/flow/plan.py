"""A Pref-GRPO update of a published transformer for `python -m core.plan --program=rl.flow.plan`."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from core import params, plan
from core.launch.fields import field
from core.mesh import Shape
from core.plan.training import place, training
from core.training.optim import Optim
from rl.flow import mmdit, vae
from rl.flow.policy import FlowPolicy
from rl.flow.policy.options import PathOptions
from rl.flow.policy.trajectory import FlowPrompt
from rl.learning import update
from rl.learning.batch import Batch
from rl.losses import RULES, Rule
from rl.policy import Slots


@dataclasses.dataclass(frozen=True)
class Config:
  """One update on images that were sampled before. An image is a row: its prompt is encoded for it alone."""

  model: str = field('flux.1-dev', 'name of a size in rl.flow.mmdit.CONFIGS')
  batch: int = field(64, 'images of an update')
  accumulate: int = field(4, 'micro-batches of an update')
  height: int = field(720, 'pixels')
  width: int = field(720, 'pixels')
  tokens: int = field(512, 'text tokens of a prompt')
  paths: PathOptions = field(PathOptions(guidance=3.5), 'how images are sampled')
  rule: Rule = field(RULES['pref_grpo'], 'clipping and averaging of the loss', choices=RULES)
  optim: Optim = field(Optim(lr=1e-5, schedule='constant', weight_decay=1e-4), 'optimiser')
  trainable: str = field('', 'regex of the weights that are trained; none = all')
  dtype: Literal['float32', 'bfloat16'] = field('bfloat16', 'of arithmetic; trained weights are float32')
  remat: Literal['none', 'dots', 'full'] = field('full', 'what the backward pass recomputes')
  mesh: Shape = field(Shape(), 'axes of the devices')

  def __post_init__(self):
    if min(self.batch, self.accumulate, self.tokens) < 1 or self.batch % self.accumulate:
      given = f'batch={self.batch}, accumulate={self.accumulate}, tokens={self.tokens}'
      raise ValueError(f'{given}: expected 1 or more, and a batch that accumulate divides')


CONFIGS = {
  'flux_pref_grpo': Config(),
  'sd3.5_pref_grpo': Config(
    model='sd3.5-medium', height=512, width=512, tokens=333, paths=PathOptions(steps=10, fraction=1.0, guidance=4.5)
  ),
}


def plan_step(config: Config, mesh: jax.sharding.Mesh) -> plan.Program:
  """The update that the one loop compiles for this policy, and what to count of it.

  Raises plan.PlanError when `config.model` is not the name of a size, or the image does not divide into its patches.
  """
  policy = policy_of(config)
  spec = policy.spec()
  adapted = jax.eval_shape(lambda w: update.adapt(w, config.trainable, config.dtype), params.abstract(spec))
  tx = update.optimizer(policy, config.optim, 1000)
  score = update.Pass(policy, dtype=config.dtype, remat=config.remat)
  return training(
    functools.partial(update.make_step, score, config.rule, tx, accumulate=config.accumulate),
    tx,
    place(adapted, spec, mesh),
    abstract_batch(config, policy),
    mesh,
    parts=parts(config, policy),
    rows=config.batch,
    micro_batches=config.accumulate,
    remat=config.remat,
  )


def policy_of(config: Config) -> FlowPolicy:
  """The policy whose steps are scored; it encodes no prompts and decodes no images."""
  if config.model not in mmdit.CONFIGS:
    raise plan.PlanError(f'model={config.model!r}: a plan needs the name of a size, one of {", ".join(mmdit.CONFIGS)}')
  model = mmdit.CONFIGS[config.model]
  factor = vae.CONFIGS['flux.1'].factor
  side = factor * model.patch
  if config.height % side or config.width % side:
    raise plan.PlanError(f'{config.height} x {config.width} pixels: expected multiples of {side}')
  latent = (config.height // factor, config.width // factor, model.channels)
  empty = lambda text: _empty_prompt(config.tokens, model)
  return FlowPolicy(config=model, options=config.paths, latent=latent, encode=empty, decode=list)


def _empty_prompt(tokens: int, model: mmdit.Config) -> FlowPrompt:
  """A prompt of zeros, whose shape is all that a plan needs of it."""
  return FlowPrompt(
    text='',
    tokens=np.zeros(tokens, np.int32),
    context=np.zeros((tokens, model.text), np.float32),
    pooled=np.zeros(model.pooled, np.float32),
  )


def abstract_batch(config: Config, policy: FlowPolicy) -> Batch:
  """The shapes and dtypes of an update's batch, each image a group of its own."""
  steps = config.paths.count
  an = lambda dtype, *shape: jax.ShapeDtypeStruct((config.batch, *shape), dtype)
  logp = an(jnp.float32, 1, steps)
  inputs = policy.shapes(config.batch, Slots(config.tokens, steps, 1, 0))
  return Batch(
    inputs=inputs,
    mask=an(jnp.bool_, 1, steps),
    sampled=logp,
    old_logp=logp,
    fresh=an(jnp.bool_),
    advantages=an(jnp.float32, 1, 1),
    ref_logp=inputs.states if config.rule.kl.in_loss else None,
  )


def parts(config: Config, policy: FlowPolicy) -> tuple[plan.Part, ...]:
  """What is counted: each trained step of each image is one pass of the transformer, or two with real guidance."""
  c = policy.config
  passes = config.batch * config.paths.count * (2 if policy.two_passes else 1)
  patches = policy.latent[0] * policy.latent[1] // c.patch**2
  both = config.tokens + patches
  spec = policy.spec()
  counted = [
    plan.Part('embedders and head', (spec.patch, spec.out), passes * patches, 0.0),
    plan.Part('text embedder', spec.context, passes * config.tokens, 0.0),
    plan.Part('condition', (spec.time, spec.guidance, spec.pooled, spec.modulation), passes, 0.0),
  ]
  for name, depth in (('dual', c.dual), ('joint', c.plain), ('last', c.last)):
    stack = getattr(spec, name)
    if stack is not None:
      own = patches**2 if name == 'dual' else 0
      attention = 4.0 * c.width * depth * passes * (both**2 + own)
      text, image = (stream.replace(modulation=None) for stream in (stack.text, stack.image))
      counted += [
        plan.Part(f'{name} blocks, text', text, passes * config.tokens, 0.0),
        plan.Part(f'{name} blocks, image', image, passes * patches, attention),
        plan.Part(f'{name} blocks, modulation', (stack.text.modulation, stack.image.modulation), passes, 0.0),
      ]
  if spec.single is not None:
    attention = 4.0 * c.width * c.single * passes * both**2
    counted += [
      plan.Part('single blocks', spec.single.replace(modulation=None), passes * both, attention),
      plan.Part('single blocks, modulation', spec.single.modulation, passes, 0.0),
    ]
  return tuple(counted)
