"""What parses runs: every accepted combination of rule, advantage and options has a finite loss and gradient."""

import dataclasses
import functools
import itertools
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import configs as agents
from core.launch import job as launch
from core.launch.errors import UsageError
from rl import losses
from rl.advantages import ADVANTAGES, Scores
from rl.configs import CONFIGS
from rl.learning import objective
from rl.losses import RULES, Kl, Rule
from rl.rewards import Length

P, G, T = 3, 4, 5
KLS = [Kl(), Kl(0.1), Kl(0.1, 'k1', 'reward')]


def slow_but_first(values):
  """Parameters, all but the first of which are slow tests."""
  first, *rest = values
  return [first, *(pytest.param(value, marks=pytest.mark.slow) for value in rest)]


def batch():
  """One fixed tiny batch: a mixed group, a flat one, one with a lost reward; lengths of all kinds."""
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, T + 1, (P, G, 1))
  logp = -rng.exponential(1.0, (P, G, T)).astype(np.float32)
  near = lambda: logp + rng.normal(0, 0.2, logp.shape).astype(np.float32)
  rewards = rng.integers(0, 2, (P, G, 2)).astype(np.float32)
  rewards[1], rewards[0, 0, 0] = 0.7, 2.0
  valid = np.ones((P, G), bool)
  valid[2, 1] = False
  return {'logp': logp, 'old': near(), 'sampled': near(), 'ref': near(), 'rewards': rewards, 'valid': valid} | {
    'mask': (np.arange(T) < lengths) & valid[..., None]
  }


BATCH = batch()


@functools.cache
def advantages_of(name, kl):
  divergence = losses.kl(BATCH['sampled'], BATCH['ref'], kl.estimator)
  penalty = kl.coef * divergence if kl.in_reward else None
  return ADVANTAGES[name](Scores(BATCH['rewards'], np.ones(2), BATCH['valid'], BATCH['mask'], penalty))


@functools.partial(jax.jit, static_argnames='rule')
def loss_and_gradient(batch, fresh, advantages, rule):
  def loss(logp):
    old = jnp.where(fresh, jax.lax.stop_gradient(logp), batch['old'])
    out = losses.policy_loss(
      logp, old, advantages, batch['mask'], rule=rule, ref_logp=batch['ref'], rollout_logp=batch['sampled']
    )
    return out.total / out.weight

  return jax.value_and_grad(loss)(batch['logp'])


def assert_finite(rule, advantage='grpo', ahead=False, *, compute=loss_and_gradient):
  """Of the first update of a rollout: without `ahead`, or with a cap, ratios start from the policy itself."""
  fresh = not ahead or rule.proximal
  value, gradient = compute(BATCH, fresh, advantages_of(advantage, rule.kl), rule)
  assert np.isfinite(value) and np.isfinite(gradient).all() and (np.asarray(gradient) != 0).any()
  assert (np.asarray(gradient)[~BATCH['mask']] == 0).all()


def allowed(rule, advantage='grpo', length=None):
  """Whether the combination parses."""
  try:
    objective.check(rule, advantage, length=length or Length(), max_new=T)
  except ValueError:
    return False
  return True


@pytest.mark.slow
@pytest.mark.parametrize('name', slow_but_first(RULES))
def test_every_combination_that_parses_has_a_finite_loss_and_gradient(name):
  seen = 0
  for advantage, ahead, kl, cap in itertools.product(ADVANTAGES, (False, True), KLS, (None, 2.0)):
    rule = dataclasses.replace(RULES[name], kl=kl, importance_cap=cap)
    refused = kl.in_reward and advantage in ('decoupled', 'gdpo')
    assert allowed(rule, advantage) is not refused
    if not refused:
      assert_finite(rule, advantage, ahead)
      seen += 1
  assert seen == 2 * 2 * (3 * len(ADVANTAGES) - 2)


# What may be set together, from a reference policy on: without one, its estimator and place mean nothing.
OPTIONS = {
  'rule': tuple(RULES),
  'advantage': tuple(ADVANTAGES),
  'ahead': ('False', 'True'),
  'rule.kl.coef': ('0.0', '0.1'),
  'rule.kl.estimator': ('k1', 'k2', 'k3'),
  'rule.kl.where': ('loss', 'reward'),
  'rule.importance_cap': ('none', '2.0'),
}
REFERENCE = {'rule.kl.coef': '0.1'}


def pairs():
  """Every two options with every two of their values, as flags by option."""
  for (first, ones), (second, others) in itertools.combinations(OPTIONS.items(), 2):
    for one, other in itertools.product(ones, others):
      yield REFERENCE | {first: one, second: other}


def parsed(configs, default, flags):
  """The configuration that these flags give, or None where they are refused in one line that names them."""
  argv = ['program', *(f'--config.{name}={value}' for name, value in flags.items())]
  try:
    return launch.parse(configs, default, argv).config
  except UsageError as error:
    said = str(error)
    named = [name for name, value in flags.items() if name in said and value in said]
    assert '\n' not in said and len(named) == 2, said
    return None


@functools.cache
def accepted_pairs():
  """(configurations of both jobs that parse, the flags that both refuse)."""
  made, refused = [], []
  for flags in pairs():
    both = parsed(CONFIGS, 'digits', flags), parsed(agents.CONFIGS, 'tiny', flags)
    assert (both[0] is None) == (both[1] is None)
    if both[0] is None:
      refused.append(flags)
    else:
      made += both
  return made, refused


@pytest.mark.slow
def test_every_pair_of_options_that_means_nothing_is_refused_when_parsed():
  made, refused = accepted_pairs()
  found = [(flags['advantage'], flags['rule.kl.where']) for flags in refused]
  assert found == [(name, 'reward') for name, entry in ADVANTAGES.items() if entry.by_component]
  assert {config.advantage for config in made} == set(ADVANTAGES)


@pytest.mark.slow
def test_every_pair_of_options_that_parses_has_a_finite_loss_and_gradient():
  made = {(config.rule, config.advantage, config.ahead) for config in accepted_pairs()[0]}
  assert len(made) >= 200
  # A rule runs once or twice here: compiling it would take longer.
  for rule, advantage, ahead in made:
    assert_finite(rule, advantage, ahead, compute=loss_and_gradient.__wrapped__)


NUMBERS = [-1.0, 0.0, 0.5, 1.5, math.nan, math.inf]


def candidates(kind):
  """Values of an annotation, good and bad."""
  if typing.get_origin(kind) is typing.Literal:
    return [*typing.get_args(kind), 'nonsense']
  if kind is bool:
    return [False, True]
  if kind is int:
    return [-1, 0, 4, 10**6]
  if kind is float:
    return NUMBERS
  if kind is type(None):
    return [None]
  return [value for part in typing.get_args(kind) for value in candidates(part)]


def changed(config):
  """(field, value, the config with it, or None where it is refused) for each field and each candidate."""
  kinds = typing.get_type_hints(type(config))
  for f in dataclasses.fields(config):
    if dataclasses.is_dataclass(kinds[f.name]):
      for inner, value, made in changed(getattr(config, f.name)):
        yield f'{f.name}.{inner}', value, made and dataclasses.replace(config, **{f.name: made})
      continue
    for value in candidates(kinds[f.name]):
      try:
        yield f.name, value, dataclasses.replace(config, **{f.name: value})
      except ValueError as error:
        assert f.name in str(error), f'{f.name}={value}: the message does not name it: {error}'
        yield f.name, value, None


@pytest.mark.parametrize(
  'start', slow_but_first([Rule(kl=Kl(0.1), importance_cap=2.0), RULES['gspo'], RULES['dr_grpo']])
)
def test_every_field_of_a_rule_is_refused_or_runs(start):
  fields = set()
  for name, _, rule in changed(start):
    if rule is not None:
      assert_finite(rule, ahead=True)
      fields.add(name)
  assert {'surrogate', 'clip_low', 'clip_high', 'aggregation', 'kl.coef', 'kl.where', 'importance_cap'} <= fields


def test_every_length_option_is_refused_or_works():
  made = [length for _, _, length in changed(Length()) if length is not None]
  assert {length.drop_cut for length in made} == {False, True} and all(0 < length.factor < math.inf for length in made)
  assert [length.buffer for length in made if not allowed(Rule(), length=length)] == [10**6]


@pytest.mark.parametrize('advantage', ['grpa', ''])
def test_an_unknown_advantage_is_refused_by_name(advantage):
  with pytest.raises(ValueError, match=f'advantage={advantage!r}'):
    objective.check(Rule(), advantage, length=Length(), max_new=8)


def test_ahead_with_a_cap_weighs_tokens_by_age_and_rounding():
  """Without the trainer's own old log-probabilities the weight would be 1 for any cap."""
  rule = dataclasses.replace(RULES['dapo'], importance_cap=2.0)
  out = losses.policy_loss(
    BATCH['logp'], None, np.ones((P, G, 1)), BATCH['mask'], rule=rule, rollout_logp=BATCH['sampled']
  )
  want = np.minimum(np.exp(BATCH['logp'] - BATCH['sampled']), 2.0)[BATCH['mask']].mean()
  assert float(out.metrics['importance'][0] / out.metrics['importance'][1]) == pytest.approx(want, rel=1e-5)
