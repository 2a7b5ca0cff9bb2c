"""Vision-SR1 as a rollout plan: answers with descriptions, then a second pass over text alone."""

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np

from rl.policy import Draw, Trajectory
from rl.rollout.flat import Flat, sample
from rl.rollout.groups import Ask
from rl.rollout.sampler import Sampler
from rl.rollout.vision_sr1 import prompts
from rl.rollout.vision_sr1.rewards import TwoPass
from rl.rollout.vision_sr1.settings import Sr1

KINDS = ('answer', 'description')
ANSWER, DESCRIPTION = range(len(KINDS))


@dataclasses.dataclass(frozen=True)
class VisionSr1:
  """`samples` responses to each prompt, each followed by one from its description alone.

  Where the generation has a separate advantage of the description, a group holds its `samples` answers and then as many
  trajectories of the kind 'description' with the tokens that this advantage trains. With targets 'y2' each of them has
  a prompt of its own: train in rows.
  """

  draw: Draw
  settings: Sr1
  samples: int
  seed: int = 0

  @property
  def kinds(self) -> tuple[str, ...]:
    """As of `rl.rollout.Plan`."""
    if self.settings.published.targets == 'none':
      return ()
    return KINDS

  def __call__(self, sampler: Sampler, ask: Ask) -> list[list[Trajectory]]:
    """As of `rl.rollout.Plan`."""
    firsts = Flat(self.draw, self.samples, self.seed)(sampler, ask)
    made = self.settings.published
    if made.passes == 1:
      return [[dataclasses.replace(t, response=self._two(t)) for t in group] for group in firsts]
    seconds = self._seconds(sampler, ask, firsts)
    rows = [self._answers(*pair) for pair in zip(firsts, seconds)]
    if made.targets == 'none':
      return rows
    separate = [self._descriptions(sampler, *pair) for pair in zip(rows, seconds)]
    return [[*_channel(answers, 'answer'), *group] for answers, group in zip(rows, separate)]

  def _two(self, first: Trajectory, second: Trajectory | None = None) -> TwoPass:
    described = prompts.description(first.response, leaky=self.settings.leaky)
    return TwoPass(first.response, described, second.response if second else '')

  def _seconds(
    self, sampler: Sampler, ask: Ask, firsts: Sequence[Sequence[Trajectory]]
  ) -> list[list[Trajectory | None]]:
    """The second pass of each response; None without a description, and where its prompt does not fit."""
    found = [[None] * len(group) for group in firsts]
    places = []
    asked = []
    for b, (query, group) in enumerate(zip(ask.queries, firsts)):
      question = prompts.question(query, self.settings.instruction)
      for g, t in enumerate(group):
        described = prompts.description(t.response, leaky=self.settings.leaky)
        messages = prompts.second(described, question, self.settings.second)
        prompt = sampler.policy.prompt(messages)
        if described and len(prompt.tokens) + self.draw.max_new <= sampler.longest:
          places.append((b, g))
          asked.append(prompt)
    if not asked:
      return found
    draw = dataclasses.replace(self.draw, temperature=0.0) if self.settings.published.greedy else self.draw
    seeds = [self._seed(ask.numbers[b], g) for b, g in places]
    for (b, g), (second,) in zip(places, sample(sampler, asked, draw, seeds=seeds)):
      found[b][g] = second
    return found

  def _answers(self, firsts: Sequence[Trajectory], seconds: Sequence[Trajectory | None]) -> list[Trajectory]:
    pairs = zip(firsts, seconds, strict=True)
    return [dataclasses.replace(first, response=self._two(first, second)) for first, second in pairs]

  def _descriptions(
    self, sampler: Sampler, answers: Sequence[Trajectory], seconds: Sequence[Trajectory | None]
  ) -> list[Trajectory]:
    """The trajectories of the separate advantage, one for each answer."""
    targets = self.settings.published.targets
    found = []
    for answer, second in zip(answers, seconds):
      if targets == 'y1_all':
        row = answer
      elif targets == 'y1_description':
        row = dataclasses.replace(answer, mask=_described(sampler, answer))
      elif second is None:  # its reward is 0, and there are no tokens to learn
        row = dataclasses.replace(answer, mask=np.zeros_like(answer.mask))
      else:
        row = dataclasses.replace(second, response=answer.response)
      found.append(dataclasses.replace(row, kind=DESCRIPTION))
    return _channel(found, 'description')

  def _seed(self, *key: int) -> int:
    return int(np.random.SeedSequence((self.seed, *key)).generate_state(1)[0])


def _channel(trajectories: Sequence[Trajectory], channel: str) -> list[Trajectory]:
  """The trajectories, rewarded for one of the two signals."""
  return [dataclasses.replace(t, response=dataclasses.replace(t.response, channel=channel)) for t in trajectories]


def _described(sampler: Sampler, t: Trajectory) -> np.ndarray:
  """Bool [N]: the tokens of a response whose text reaches into its description."""
  begin, end = prompts.span(t.response.first)
  written = lambda n: len(sampler.policy.text(t.tokens[:n]))  # characters of the first n tokens: never fewer
  count = range(len(t.tokens) + 1)
  first = bisect.bisect_right(count, begin, key=written) - 1
  last = bisect.bisect_left(count, end, key=written)
  inside = np.arange(len(t.tokens))
  return t.mask & (inside >= first) & (inside < last)
