"""Demonstrations that show more than solutions."""

import jax

from core import mesh
from core.toy import shortcut
from rl import policy as policies
from rl import train
from rl.learning.varied import second_passes
from rl.rollout.collect import QuerySource
from rl.rollout.vision_sr1 import Sr1, prompts
from rl.tasks import TASKS, WARMUP_SEED

ONE = mesh.make(devices=jax.devices()[:1])


def test_every_other_solution_is_a_guess_and_second_passes_are_of_solutions():
  policy, _ = policies.load('tiny', ONE)
  source = QuerySource(TASKS['shortcut'], policy, seed=0, limit=200)
  settings = Sr1('c2', first='Describe.', second='{description} {question}')
  shown = [policy.text(t.tokens) for t in second_passes(source, settings, 64)(range(8))]
  queries = [source.query(n, WARMUP_SEED) for n in range(8)]
  for n in (0, 4):
    assert shown[n] == queries[n].solution
  for n in (2, 6):
    told = shortcut.example('train', source.seed * 16 + WARMUP_SEED, n).hint
    assert shown[n].endswith(f'<think>{told}</think>\\boxed{{{told}}}')
    assert prompts.description(shown[n]) != prompts.description(queries[n].solution)
  for n in (1, 3, 5, 7):
    assert shown[n] == queries[n].solution.rpartition('</description>')[2]


def test_only_a_warm_up_that_asks_for_variants_shows_them():
  policy, _ = policies.load('tiny-text', ONE)
  for name, fenced in (('svs', [False, True]), ('treepo', [False, False])):
    config = train.CONFIGS[name]
    shown = train.demonstrations_of(config, policy, train.task_of(config)).examples(range(2))
    assert [policy.text(t.tokens).startswith('```') for t in shown] == fenced
