"""One update of `agents.train` on rewards that conversations earned, against a gradient computed without `rl`."""

import collections
import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import policy as policies
from agents import train
from agents.configs import CONFIGS, Sft, Stage
from agents.rollout.trajectory import Bounds
from core import decoder, mesh
from core.training.optim import Optim
from tests.agents.scripted import ScriptedEngine

TEMPERATURE = 0.7
# Adam's first update is g / (|g| + eps): with so large an eps nearly the gradient, and never a division by nothing.
OPTIM = Optim(lr=1.0, schedule='constant', eps=1.0, clip_norm=None)
CONFIG = dataclasses.replace(
  CONFIGS['smoke'],
  sft=Sft(),
  stage1=Stage(1, Bounds(200, 4)),
  stage2=Stage(),
  stage3=Stage(),
  prompts=2,
  group=3,
  oversample=2,
  temperature=TEMPERATURE,
  optim=OPTIM,
)
# What the twelve conversations of the rollout do: of the first problem three are right, of the second none.
KINDS = ['failing', 'wrong', 'clean', 'wrong', 'guess', 'wrong'] + ['wrong'] * 6
KEPT = {'clean': 1.0, 'guess': 1.0, 'wrong': 0.0}  # by GRPO-RoC, with their rewards; 'failing' has the most errors


class Engine(ScriptedEngine):
  """Samples what KINDS say; `spoken` holds (prompt, tokens) of each turn by conversation, in order of arrival."""

  def __init__(self, protocol):
    super().__init__(self._next_turn, protocol.stop_id)
    self.protocol, self.spoken = protocol, collections.defaultdict(list)

  def update(self, weights):
    """Nothing to do: what is said does not depend on weights."""

  def kind(self, seed):
    """What a conversation does. Those before the rollout are evaluation."""
    place = list(self.spoken).index(seed) - CONFIG.eval_problems
    return KINDS[place] if 0 <= place < len(KINDS) else 'clean'

  def _next_turn(self, request):
    turns = self.spoken[request.seed]
    ids = self.protocol.assistant(self._text(self.kind(request.seed), request.prompt, len(turns)))
    turns.append((list(request.prompt), ids))
    return ids

  def _text(self, kind, prompt, turn):
    product = re.search(r'(\d+)\*(\d+)', self.protocol.text(prompt))
    code = {'clean': f'print({product[0]})', 'failing': f'print({product[0]}'}.get(kind)
    if code and turn == 0:
      call = json.dumps({'name': 'python', 'arguments': {'code': code, 'input': ''}})
      return f'</reason>\n<tool_call>\n{call}\n</tool_call>'
    answer = 7 if kind == 'wrong' else int(product[1]) * int(product[2])
    return f'</reason><answer>\\boxed{{{answer}}}</answer>'


def log_probs(weights, config, turns):
  """Of each token that the policy said in a conversation, from one plain forward pass over all of it."""
  tokens = np.array(turns[-1][0] + turns[-1][1])
  logits = decoder.apply(weights, config, tokens[None, :-1]).logits[0] / TEMPERATURE
  every = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[1:, None], -1)[:, 0]
  spans = [(len(prompt), len(prompt) + len(ids)) for prompt, ids in turns]
  return jnp.concatenate([every[start - 1 : stop - 1] for start, stop in spans])


def gradient(weights, config, conversations):
  """Of −Σ A·log p / number of tokens, at a ratio of 1; A = (r − mean) / std of the kept conversations."""
  rewards = np.array([reward for _, reward in conversations])
  gains = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
  said = sum(len(ids) for turns, _ in conversations for _, ids in turns)

  def loss(weights):
    terms = [gain * log_probs(weights, config, turns).sum() for gain, (turns, _) in zip(gains, conversations)]
    return -sum(terms) / said

  return jax.jit(jax.grad(loss))(weights)


@pytest.mark.slow
def test_an_update_on_earned_rewards_is_that_of_the_papers(tmp_path, monkeypatch):
  engines = []

  def scripted(policy, weights, size, home):
    engines.append(Engine(policy.protocol))
    return engines[0]

  monkeypatch.setattr(policies.ToolPolicy, 'engine', scripted)
  train.main(CONFIG, tmp_path)
  (line,) = map(json.loads, (tmp_path / 'metrics.jsonl').read_text().splitlines())
  assert line['reward'] == pytest.approx(3 / 12) and line['calls_failed'] == 0.5

  place = mesh.make(devices=jax.devices()[:1])
  policy, before = policies.load(CONFIG.model, CONFIG.tool, place, seed=CONFIG.seed)
  _, after = decoder.load(tmp_path / 'model', dtype='float32')
  by_kind = {}
  for seed in list(engines[0].spoken)[CONFIG.eval_problems :][: len(KINDS) // 2]:
    by_kind[engines[0].kind(seed)] = engines[0].spoken[seed]
  assert len(by_kind['clean']) == 2  # the tool answered, and the policy continued
  want = gradient(before, policy.config, [(by_kind[kind], reward) for kind, reward in KEPT.items()])

  def compare(old, new, g):
    np.testing.assert_allclose(np.asarray(new - old), -np.asarray(g / (jnp.abs(g) + 1.0)), atol=2e-6)

  jax.tree.map(compare, before, after, want)
  assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(want)) > 0.01
