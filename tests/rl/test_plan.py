"""The planned policy update: its batch is that of training, its formulas are what the compiler counts."""

import dataclasses
import math
import types

import jax
import numpy as np
import pytest

import internvl
from core import decoder, mesh
from core.plan import aot, formula
from internvl import configs
from rl import plan, train
from rl import policy as policies
from rl.advantages import ADVANTAGES
from rl.configs import CONFIGS
from rl.learning import update
from rl.learning.batch import pack, spans, split
from rl.policy.vision_language import VisionLanguagePolicy
from rl.rollout.collect import Collected
from rl.tasks import digits_query
from tests.rl.groups import made_up

ONE = mesh.make(devices=jax.devices()[:1])
TINY = dataclasses.replace(CONFIGS['smoke'], prompt_length=48, tiles=3)


@pytest.mark.parametrize('advantage', ['grpo', 'reinforce_pp'])
def test_the_planned_batch_is_the_one_that_training_makes(advantage):
  config = dataclasses.replace(TINY, advantage=advantage, updates=1)
  p, _ = policies.load('tiny', ONE)
  queries = [digits_query('train', 1, i) for i in range(config.prompts)]
  groups = [made_up(p.prompt(q.messages, q.images), q, config.group, config.max_new) for q in queries]
  packed = pack(p, Collected(groups, groups[0], len(groups), {}, 0), 'shared', given=plan.slots(config))
  batch = packed.batch.replace(advantages=packed.advantages(ADVANTAGES[advantage]))
  (made,) = split(batch, spans(packed.units, config.prompts, config.accumulate), ONE)
  place = lambda x: (x.shape, x.dtype, x.sharding)
  want = jax.tree.map(place, made)
  assert jax.tree.map(place, plan.plan_step(config, ONE).args[2]) == want


@pytest.mark.slow
def test_the_planned_update_is_compiled_with_its_state_donated():
  config = dataclasses.replace(TINY, model='tiny', accumulate=2, remat='full')
  program = train.plan_step(config, ONE)
  assert program.rows == config.prompts * config.group and program.micro_batches == 2
  memory = aot.compile_step(program, ONE).memory
  state = aot.shard_bytes(program.args[0])
  assert state <= memory.alias <= memory.arguments and memory.output - memory.alias < 4096


def test_a_frozen_tower_has_no_optimiser_state_and_is_held_as_it_is_used():
  config = dataclasses.replace(TINY, model='tiny', dtype='bfloat16', trainable=r'(?:projector|language)\..*')
  state, frozen, *_ = train.plan_step(config, ONE).args
  assert not jax.tree.leaves((state.params.vision, frozen.language, frozen.projector))
  assert {x.dtype.name for x in jax.tree.leaves(state.params)} == {'float32'}
  assert {x.dtype.name for x in jax.tree.leaves(frozen)} == {'bfloat16'}


@pytest.fixture
def broad(monkeypatch):
  """One layer each, so that no loop's body counts once for many, and wide, so that products outweigh all else."""
  tiny = configs.CONFIGS['tiny']
  language = dataclasses.replace(tiny.language, width=256, depth=1, heads=4, kv_heads=2, head_dim=64, mlp_width=1024)
  vision = dataclasses.replace(tiny.vision, width=256, mlp_width=1024, depth=1)
  monkeypatch.setitem(configs.CONFIGS, 'broad', dataclasses.replace(tiny, vision=vision, language=language))
  return dataclasses.replace(TINY, model='broad', max_new=32, prompts=2)


@pytest.mark.slow
@pytest.mark.parametrize('remat', ['none', 'full'])
def test_flops_are_those_that_the_compiler_counts(broad, remat):
  config = dataclasses.replace(broad, remat=remat)
  program = plan.plan_step(config, ONE)

  score = update.Pass(policies.planned('broad'), remat=remat)

  def total(weights, batch):
    return update.update_loss(weights, batch, None, score=score, rule=config.rule).total

  lowered = jax.jit(jax.grad(total)).lower(program.args[0].params, program.args[2])
  counted = lowered.cost_analysis()['flops']
  parts = [dataclasses.replace(part, attention=0.0) for part in program.parts]
  products = formula.flops(dataclasses.replace(program, parts=parts), ONE)[1]
  # The reference attends to every key there is, seen or not, and multiplies twice backward for once forward.
  attention = 4 * 4 * 64 * config.prompts * (48**2 + config.group * 32 * (48 + 32))
  attention += program.parts[0].attention
  assert counted == pytest.approx(products + attention * (3 + (remat == 'full')), rel=0.05)


def test_attention_counts_the_pairs_that_answers_see(broad):
  config, m = dataclasses.replace(broad, max_new=5, group=3), configs.CONFIGS['20B-A4B']
  prompt, answer = np.tril(np.ones((48, 48))), np.tril(np.ones((53, 53)))[48:]
  window = lambda see, start: see - np.tril(see, start - 128)
  pairs = [p.sum() + 3 * a.sum() for p, a in ((prompt, answer), (window(prompt, 0), window(answer, 48)))]
  want = 4 * m.language.heads * m.language.head_dim * m.language.depth * config.prompts * np.mean(pairs)
  language = next(part for part in plan.parts(config, VisionLanguagePolicy(m, None)) if part.name == 'language model')
  assert language.attention == pytest.approx(want, rel=1e-12)
  assert language.tokens == config.prompts * (48 + 3 * 5)


@pytest.mark.parametrize('name,devices', [('8b_gspo', 256), ('241b_gspo', 1024), ('7b_treepo', 32), ('32b_svs', 256)])
def test_named_configurations_share_their_prompts_out_evenly(name, devices):
  config = CONFIGS[name]
  shape = dataclasses.asdict(config.mesh)
  assert math.prod(shape.values()) == devices
  assert config.model in internvl.CONFIGS or config.model in decoder.CONFIGS
  on = types.SimpleNamespace(**shape)
  rows = config.prompts // config.updates // config.accumulate
  assert rows % on.data == 0 and rows * config.group % (on.data * on.expert) == 0
  assert config.max_new % on.seq == 0 and config.prompt_length % on.seq == 0
