"""The planner's formulas against hand-computed numbers, its reading of compiled programs, its refusals."""

import importlib.util
import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import attention, params
from core.attention import sizes
from core.mesh import AXES, sharding
from core.params import Spec
from core.plan import Part, PlanError, Program, __main__, aot, chips, collectives, formula, gpus
from internvl import configs, model
from internvl.plan import training as sft
from internvl.training.configs import Config


def mesh(data=1, expert=1, seq=1, model=1):
  return jax.sharding.AbstractMesh((data, expert, seq, model), AXES)


def program(parts, **options):
  return Program(None, (), {}, parts, rows=8, **options)


def test_flops_of_one_matrix_by_hand():
  part = Part('', Spec((8, 4), ('embed', 'mlp')), tokens=100, attention=1000.0)
  forward = 2 * 100 * 32
  assert formula.flops(program((part,)), mesh()) == (3 * (forward + 1000), 3 * forward + 4.5 * 1000)
  assert formula.flops(program((part,), remat='full'), mesh())[1] == 4 * forward + 5.5 * 1000


def test_bytes_of_one_matrix_by_hand():
  part = Part('', Spec((64, 32), ('embed', 'mlp')), tokens=800, attention=0.0)
  on = mesh(data=4, model=2)
  done = formula.work(program((part,), remat='full', micro_batches=2), on, state_bytes=3072)
  # A device stores 64·32/8 = 256 elements, multiplies with 64·32/2 = 1024, and reads 800/4 = 200 tokens.
  assert done.hbm == {
    'update of the state': 2 * 3072 + 8 * 256,
    'gathered weights, gradients': 2 * 8 * 2 * 1024,
    'activations': 4 * 2 * 200 * (64 + 16),
  }
  assert done.ici == {'weights and gradients': 3 * 2 * 2 * (1024 - 256)}


def test_tensor_axis_pays_for_partial_sums():
  part = Part('', Spec((32, 64), ('mlp', 'embed')), tokens=100, attention=0.0)
  assert formula.ici(program((part,)), mesh(model=4))['tensor axis'] == 2 * 3 / 4 * (2 * 2) * 100 * 64


def test_experts_count_only_where_tokens_go():
  spec = Spec((3, 8, 16, 4), ('layers', 'experts', 'expert_embed', 'mlp'))
  part = Part('', spec, tokens=10, attention=0.0, active=2 / 8)
  done = formula.work(program((part,)), mesh(), 0)
  assert done.parameters == 3 * 8 * 16 * 4 and done.active == 3 * 2 * 16 * 4
  assert done.model_flops == 6 * 10 * done.active


@pytest.mark.parametrize('name', ['8B', '241B-A28B', '20B-A4B', 'tiny'])
def test_towers_hold_every_parameter(name):
  """6 FLOPs a parameter and token, the parameters that multiply nothing aside."""
  towers = sft.parts(Config(name), configs.CONFIGS[name])
  assert sum(params.count(t.spec) for t in towers) == params.count(model.spec(configs.CONFIGS[name]))
  language = configs.CONFIGS[name].language
  matrices = sum(w.active for tower in towers[2:] for w in formula.weights(tower, mesh()))
  attention = language.width * language.head_dim * (2 * language.heads + 2 * language.kv_heads)
  moe = language.moe
  mlp = 3 * language.width * (moe.width * moe.top_k if moe else language.mlp_width)
  router = language.width * moe.experts if moe else 0
  head = 0 if language.tied else language.width * language.vocab
  assert matrices == language.depth * (attention + mlp + router) + head


def test_attention_counts_the_pairs_a_query_sees():
  config = Config('20B-A4B', batch=2, length=1024)
  m = configs.CONFIGS['20B-A4B']
  see = np.tril(np.ones((1024, 1024)))
  pairs = (see.sum() + (see - np.tril(see, -128)).sum()) / 2  # every other layer sees the last 128
  want = 4 * m.language.heads * m.language.head_dim * m.language.depth * 2 * pairs
  np.testing.assert_allclose(sft.parts(config, m)[2].attention, want, rtol=1e-12)


PROGRAM = """\
HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}

%limit (p: (s32[], bf16[8,128])) -> pred[] {
  %n = s32[]{:T(128)} constant(36)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%inner (p: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %g = (bf16[2,128]{1,0}, bf16[8,128]{1,0}) all-gather-start(%x), dimensions={0}
  %d = bf16[8,128]{1,0} all-gather-done(%g)
}

%outer (p: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %w = (s32[], bf16[8,128]) while(%p), condition=%limit, body=%inner
  %r = f32[4]{0} all-reduce(%y), to_apply=%add
}

%unknown (p: s32[]) -> pred[] {
  ROOT %c = pred[] custom-call(%p), custom_call_target="ask"
}

%free (p: s32[]) -> s32[] {
  %a = (f32[16]{0}, f32[16]{0}) all-to-all(%y, %z), dimensions={0}
}

ENTRY %main (p: bf16[8,128]) -> bf16[8,128] {
  %w1 = (s32[], bf16[8,128]) while(%t), condition=%c2, body=%outer, backend_config={"known_trip_count":{"n":"2"}}
  %w2 = s32[] while(%t), condition=%unknown, body=%free
}
"""


def test_collectives_are_counted_with_the_trips_of_their_loops():
  found = {c.kind: c for c in collectives.collectives(PROGRAM)}
  assert found['all-gather'] == collectives.Collective('all-gather', 1, 72, 72 * 8 * 128 * 2, True)
  assert found['all-reduce'] == collectives.Collective('all-reduce', 1, 2, 2 * 16, True)
  assert found['all-to-all'] == collectives.Collective('all-to-all', 1, 1, 128, False)
  assert set(found) == {'all-gather', 'all-reduce', 'all-to-all'}


FUSED = """\
HloModule step

%fused_compare (n: s32[]) -> pred[] {
  %limit = s32[] constant(7)
  ROOT %lt = pred[] compare(%n, %limit), direction=LT
}

%condition (p: (s32[], bf16[8])) -> pred[] {
  ROOT %c = pred[] fusion(%p), kind=kLoop, calls=%fused_compare
}

%body (p: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %r = bf16[8]{0} all-reduce-start(%x), to_apply=%add
}

ENTRY %main (p: bf16[8]) -> bf16[8] {
  %w = (s32[], bf16[8]) while(%t), condition=%condition, body=%body
}
"""


def test_the_trips_of_a_loop_are_read_where_its_test_is_fused():
  assert collectives.collectives(FUSED) == [collectives.Collective('all-reduce', 1, 7, 7 * 16, exact=True)]


def test_overflow_is_read_from_the_message():
  refused = aot.overflow(
    'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. '
    'Used 120.50G of 95.74G hbm. Exceeded hbm capacity by 24.76G.'
  )
  assert (refused.used, refused.available) == (round(120.5 * 2**30), round(95.74 * 2**30))
  assert aot.overflow('INVALID_ARGUMENT: something else') is None


@pytest.mark.parametrize(
  'kept,heads,shards,copies', [(4, 64, 8, 2), (4, 64, 2, 1), (8, 32, 8, 1), (2, 12, 4, 2), (2, 14, 7, 7)]
)
def test_key_heads_follow_their_query_heads(kept, heads, shards, copies):
  assert attention.key_copies(kept, heads, shards) == copies
  # Query head n reads key head n // G, globally and in its shard.
  spread = np.repeat(np.arange(kept), copies).reshape(shards, -1)
  mine = np.repeat(spread, heads // (kept * copies), axis=1)
  np.testing.assert_array_equal(mine.reshape(-1), np.repeat(np.arange(kept), heads // kept))


@pytest.mark.parametrize('length,window,grouped', [(70, None, 2), (256, 40, 1), (130, None, 1)])
def test_splash_equals_reference_at_any_length(length, window, grouped, monkeypatch):
  """Interpreted on the host, with padding at the end of rows and packed samples."""
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  make = splash.make_splash_mha_single_device
  monkeypatch.setattr(splash, 'make_splash_mha_single_device', lambda mask, **o: make(mask, **o, interpret=True))
  r = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(r.normal(size=shape), jnp.float32)
  q, k, v = draw(1, length, 2, 64), draw(1, 2 // grouped, length, 64), draw(1, 2 // grouped, length, 64)
  at = np.arange(length)
  segments = jnp.asarray(np.where(at < 30, 1, np.where(at < length - 5, 2, 0))[None], jnp.int32)
  positions = jnp.asarray(np.where(at < 30, at, np.where(at < length - 5, at - 30, -1))[None], jnp.int32)
  run = lambda name: attention.attention(
    q,
    [attention.Keys(k, v, positions, segments)],
    positions=positions,
    segments=segments,
    window=window,
    implementation=name,
  )
  np.testing.assert_allclose(run('splash')[:, :-5], run('reference')[:, :-5], atol=2e-5)


@pytest.mark.slow
def test_splash_over_a_prompt_and_what_follows_equals_reference_with_gradients(monkeypatch):
  """Interpreted on the host: two answers to each prompt, one prompt padded on its left, one answer on its right."""
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  make = splash.make_splash_mha_single_device
  monkeypatch.setattr(splash, 'make_splash_mha_single_device', lambda mask, **o: make(mask, **o, interpret=True))
  monkeypatch.setattr(sizes, 'QUERY_BLOCK', 16)
  r = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(r.normal(size=shape), jnp.float32)
  q, fresh, prompt = draw(2, 70, 2, 64), draw(2, 2, 1, 70, 64), draw(2, 1, 1, 150, 64)
  before = jnp.asarray(np.arange(150)[None] - 9).clip(-1)
  at = jnp.asarray(np.stack([np.arange(141, 211), np.where(np.arange(70) < 60, np.arange(141, 211), -1)]))

  def run(name):
    def total(q, fresh, prompt):
      runs = [attention.Keys(*prompt, before).repeat(2), attention.Keys(*fresh, at)]
      y = attention.attention(q, runs, positions=at, implementation=name)
      return jnp.sum(jnp.where((at >= 0)[..., None, None], y, 0) ** 2)

    return jax.value_and_grad(total, (0, 1, 2))(q, fresh, prompt)

  for a, b in zip(jax.tree.leaves(run('splash')), jax.tree.leaves(run('reference'))):
    np.testing.assert_allclose(a, b, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
  'flags,says',
  [
    (('--config=8b_sft', '--program=internvl.train'), '--topology is missing'),
    (
      ('--topology=v9:2x2', '--config=8b_sft', '--program=internvl.train'),
      "no TPU generation or GPU 'v9'; expected one of v4",
    ),
    (('--topology=v5p-512', '--config=8b_sft', '--program=internvl.train'), 'expected <generation>:<shape>'),
    (('--topology=h200:9', '--config=8b_sft', '--program=internvl.train'), "'h200:9': expected a number from 1 to 8"),
    (('--topology=h200:0', '--config=8b_sft', '--program=internvl.train'), "'h200:0': expected a number from 1 to 8"),
    (('--topology=h200:2x4', '--config=8b_sft', '--program=internvl.train'), 'expected a number from 1 to 8, the GPUs'),
    (('--topology=l4:2', '--config=8b_sft', '--program=internvl.train'), "'l4:2': expected 1: it has no NVLink"),
    (('--topology=v5p:4x8x8', '--config=8b_sft', '--program=internvl.nothing'), 'internvl.nothing: no such module'),
    (('--topology=v5p:4x8x8', '--config=8b_sft', '--program=core.mesh'), 'no CONFIGS and no plan_step'),
    (('--topology=v5p:4x8x8', '--config=8b_stf', '--program=internvl.train'), '--config=8b_stf: no such config'),
    (('--topology=v5p:4x8x8', '--config=8b_sft', '--program=internvl.train', '--batch=0'), 'batch=0'),
    (('--topology=v5p:4x8x8', '--config=8b_gspo', '--program=rl.train', '--batch=8'), 'has no field batch'),
    (('--topology=v5p:4x8x8', '--config=8b_gsop', '--program=rl.train'), "did you mean '8b_gspo'"),
    (('--topology=v5p:4x8x8', '--config=8b_gspo', '--program=rl.train', '--config.model=9B'), "model='9B'"),
    (('--topology=v5p:4x8x8', '--config=digits', '--program=rl.train'), 'prompt_length=0, tiles=0'),
    (
      ('--topology=v5p:4x8x8', '--config=8b_sft', '--program=internvl.train', '--model=0'),
      '--model=0: expected 1',
    ),
    (('--topology=v5p:4x8x8', '--config=8b_sft', '--program=internvl.train', '--modle=2'), "flag 'modle'"),
  ],
)
def test_bad_usage_is_one_line_and_exit_code_2(flags, says, capsys):
  assert __main__.main(['plan', *flags]) == 2
  error = capsys.readouterr().err
  assert says in error and error.count('\n') == 1


@pytest.mark.slow
def test_the_cpu_of_this_machine_is_a_topology(tmp_path):
  """Weights and moments take four bytes a value, and no time is claimed."""
  path = tmp_path / 'plan.json'
  flags = ('--topology=cpu:1', '--program=internvl.train', '--config=tiny', '--batch=1', f'--json={path}')
  assert __main__.main(['plan', *flags]) == 0
  plan = json.loads(path.read_text())
  weights = 4 * plan['work']['parameters']
  assert plan['by_kind']['weights'] == weights
  assert plan['by_kind']['optimiser state'] >= weights  # a moment, or two
  assert plan['fits'] and plan['compiled']['memory']['temporary'] > 0 and plan['roofline'] is None


@pytest.mark.parametrize(
  'topology,package,extra', [('v5p:4x8x8', 'libtpu', 'plan'), ('h200:1', r'jax_cuda1[23]_plugin', 'plan-gpu')]
)
def test_without_the_compiler_the_extra_is_named(topology, package, extra, monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if re.fullmatch(package, name) else find(name))
  with pytest.raises(PlanError, match=re.escape(f"pip install -e '.[{extra}]'")):
    chips.devices(topology)


# Dense products of bfloat16, summed in float32, that a multiprocessor makes in a clock (NVIDIA's white papers).
PRODUCTS = {'l4': 512, 'rtx4090': 256, 'a100': 1024, 'h100': 2048, 'h200': 2048, 'b200': 4096}


@pytest.mark.parametrize('name', gpus.GPUS)
def test_the_flops_of_a_gpu_are_those_of_its_multiprocessors(name):
  """Those of Hopper and Blackwell are stated at a lower clock than the boost clock."""
  gpu = gpus.GPUS[name]
  assert 0.92 < gpu.flops / (2 * PRODUCTS[name] * gpu.cores * gpu.clock * 1e9) < 1.001
  chip, shape = chips.parse(f'{name}:1')
  assert (chip.hbm, chip.flops, chip.bandwidth, chip.ici) == (gpu.hbm, gpu.flops, gpu.bandwidth, gpu.nvlink)
  assert shape == (1,)


def test_one_device_needs_no_links():
  chip = chips.Chip(hbm=1e9, flops=1e12, bandwidth=1e11)
  one = formula.Work(1, 1, 1.0, 2e12, {'weights': 1e11}, {})
  assert formula.roofline(one, chip, 1) == formula.Roofline(compute=2.0, hbm=1.0, ici=0.0)


def test_a_plan_that_fits_names_the_share_of_the_memory_that_jax_takes():
  from core.plan import report

  made = Program(None, ((),), {}, (), rows=1, counted=formula.Work(1, 1, 1.0, 1.0, {'weights': 1.0}, {}))
  chip = chips.Chip(hbm=100.0, flops=1.0, bandwidth=1.0, links='NVLink', taken=0.75)

  def plan(total: int):
    memory = aot.Memory(arguments=total, output=0, alias=0, temporary=0, code=0)
    compiled = aot.Compiled(memory, None, '', 0.0, 0.0, 0.0, 0)
    return report.make('', made, mesh(), chip, compiled)

  assert plan(75).fits and not plan(75).advice
  assert plan(76).fits and plan(76).advice == [
    'XLA_PYTHON_CLIENT_MEM_FRACTION=0.95: JAX takes 75% of the memory without it'
  ]
  assert not plan(101).fits
  assert 'NVLink' not in report.text(plan(75))  # one device


def test_advice_starts_with_what_fills_the_memory():
  from core.plan import report

  chip = types.SimpleNamespace(hbm=100.0)
  tips = report.advice(program((), remat='none'), mesh(data=2), chip, arguments=60)
  assert [t.split(':')[0].split()[0] for t in tips] == ['more', 'remat=full', 'accumulate=4']
  assert report.advice(program((), remat='full'), mesh(data=8), chip, 1)[0].startswith('seq=2')


def test_advice_names_the_weight_that_is_not_divided():
  from core.plan import report

  on = mesh(data=512)
  place = lambda s: jax.ShapeDtypeStruct(s.shape, jnp.float32, sharding=sharding(s.shape, s.axes, on))
  wide, even = Spec((3200, 4), ('vision', 'heads')), Spec((512, 4), ('embed', 'mlp'))
  kinds = {'weights': {'wide': place(wide), 'even': place(even)}}
  made = Program(None, (), kinds, (), rows=512, remat='full')
  tip = report.advice(made, on, types.SimpleNamespace(hbm=60e3), arguments=52000)[0]
  assert 'wide of shape (3200, 4) worst' in tip
