"""Reinforcement learning of a text-to-image flow model on `rl.run`: scans of digits as captions ask for them."""

import functools
import pathlib
from typing import Any

import jax

from core import mesh as mesh_lib
from core import params as params_lib
from core.files import store
from rl.devices import meshes
from rl.evaluate import Evaluation
from rl.flow import mmdit
from rl.flow.configs import FlowConfig
from rl.flow.files import transformer
from rl.flow.gallery import Gallery
from rl.flow.judges.similarity import ScoreJudge
from rl.flow.policy import FlowPolicy, Paths
from rl.flow.pretrain import pretrain
from rl.flow.toy import digits, judges
from rl.flow.toy.words import Words
from rl.loop import run
from rl.report import Outcome, Page
from rl.rewards import Reward
from rl.rewards.pairwise import WEIGHTS, Pairwise

SCRATCH = 'digits'
MODEL = mmdit.Config(channels=1, heads=4, head_dim=16, text=32, pooled=32, joint=3, table=4, table_extent=4)
PAGE = Page(
  title='A text-to-image model that learned from comparisons',
  answer=lambda image: '',
  pictures=lambda image: [image],
  panel=(('reward/edges', 'ink at the edges'), ('reward/distance', 'distance to the nearest scan')),
  panel_label='hacking',
)


def load(config: FlowConfig, place: mesh_lib.Mesh) -> tuple[FlowPolicy, mmdit.Params]:
  """(policy, float32 weights on the mesh `place`) of `config.model`, drawn with the config's seed from scratch.

  Raises ValueError for a name that is neither, and errors as `rl.flow.files.transformer.load`.
  """
  make_policy = functools.partial(
    FlowPolicy, options=config.paths, decode=digits.decode, rows=config.prompts * config.group
  )
  if config.model != SCRATCH:
    folder = store.folder(config.model)
    if folder.local is not None and not folder.local.is_dir():
      raise ValueError(f'model={config.model!r}: expected {SCRATCH!r}, or the folder of a model')
    model, weights = transformer.load(folder, mesh=place, dtype='float32')
  else:
    model = MODEL
    make = functools.partial(mmdit.init, config=model)
    places = mesh_lib.shardings(mmdit.spec(model), place)
    weights = params_lib.draw(make, jax.random.key(config.seed), places)
  latent = (digits.SIDE, digits.SIDE, model.channels)
  return make_policy(config=model, latent=latent, encode=Words(model.text, model.pooled)), weights


def rewards_of(config: FlowConfig) -> dict[str, Reward]:
  """The rewards of a run by name; those of weight 0 are looked at alone."""
  judged = functools.partial(Reward, direct=True)
  score = judges.Score(config.score_noise)
  rewards = {
    'score': judged(score, weights=config.score, right=judges.right),
    'edges': judged(functools.partial(_of_image, judges.edges), weights=0.0),
    'distance': judged(functools.partial(_of_image, judges.distance), weights=0.0),
  }
  if not config.preference:
    return rewards
  c = config.compare
  compared = Pairwise(
    ScoreJudge(score.of, c.zone),
    opponents=c.opponents or None,
    order=c.order,
    decimals=c.decimals,
    patience=c.patience,
    workers=1,
  )
  weights = {name: config.preference * weight for name, weight in WEIGHTS.items()}
  return {'preference': judged(compared, weights=weights, group=True), **rewards}


def _of_image(measure: Any, query: Any, image: Any) -> float:
  return measure(image)


def train(config: FlowConfig, workdir: pathlib.Path) -> Outcome:
  """Flow matching, then reinforcement learning; leaves what `rl.run` leaves, and grids of held-out images."""
  place, _ = meshes(config)
  policy, weights = load(config, place)
  weights = pretrain(policy, weights, digits.draw, config.pretraining, workdir, place, config)
  shown = Gallery(Paths(1, deterministic=True), workdir / 'images', columns=len(digits.INK) * len(digits.SLANT))
  return run(
    (policy, weights),
    digits.TASK,
    workdir=workdir,
    rewards=rewards_of(config),
    rollout=Paths(config.group, config.seed),
    steps=config.steps,
    max_new=config.paths.count,
    evaluation=Evaluation(shown, None, config.eval_queries, min(config.eval_queries, len(digits.PROMPTS))),
    page=PAGE,
    claim=config,
    config=config,
  )
