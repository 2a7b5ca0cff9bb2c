"""SvS as a rollout plan: solve, write variants, solve the variants; three kinds of groups in one batch."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rl.policy import Draw, Trajectory
from rl.query import Query
from rl.rollout.dynamic import mixed
from rl.rollout.flat import sample
from rl.rollout.groups import Ask, Group, Rollout
from rl.rollout.sampler import Sampler
from rl.rollout.svs import measures, prompts
from rl.rollout.svs.settings import Synthesis

KINDS = ('solve', 'write', 'variant')
SOLVE, WRITE, VARIANT = range(len(KINDS))


@dataclasses.dataclass(frozen=True)
class Context:
  """A right response to a half-solved problem, from which variants are written.

  group: of the problem. place: of the response in it. prompt: that asks for a variant.
  """

  group: Group
  place: int
  prompt: object


@dataclasses.dataclass(frozen=True)
class Variant:
  """A variant as a query with the answer of its parent; context, place: which text it was read from."""

  context: int
  place: int
  query: Query
  prompt: object


@dataclasses.dataclass(frozen=True)
class Svs:
  """Algorithm 1 of the paper.

  samples: responses to each problem and to each variant. A response depends on `seed`, the number of its query and its
  place in the lineage alone.
  """

  draw: Draw
  synthesis: Synthesis
  samples: int
  seed: int = 0
  kinds = KINDS

  def __call__(self, sampler: Sampler, ask: Ask) -> Rollout:
    """As of `rl.rollout.Plan`."""
    clock = measures.Clock()
    solved = self._solve(sampler, ask, ask.queries, ask.prompts, ask.numbers, [(n,) for n in ask.numbers])
    clock.lap('solve')
    if self.synthesis.rewrite:
      written, variants, counts = self._synthesise(sampler, ask, solved, clock)
    else:
      written = []
      variants = self._again(sampler, ask, solved)
      counts = measures.Counts()
    further = [*written, *variants]
    trained = [
      *[group.summed() for group in solved if _mixed(group)],
      *[group for group in written if self._teaches(group)],
      *[group.summed() for group in variants if _mixed(group)],
    ]
    if self.synthesis.shuffle:
      order = np.random.default_rng((self.seed, ask.step, 0)).permutation(len(trained))
      trained = [trained[i] for i in order]
    metrics = measures.metrics(KINDS, [*solved, *further], trained, counts, clock, sampler.home)
    return Rollout(asked=solved, further=further, kept=trained, metrics=metrics)

  def _solve(
    self,
    sampler: Sampler,
    ask: Ask,
    queries: Sequence[Query],
    prompts: Sequence,
    numbers: Sequence[int],
    lineage: Sequence[tuple[int, ...]],
    kind: int = SOLVE,
  ) -> list[Group]:
    """Rewarded groups of responses to queries; lineage: what tells a query from all others of the run."""
    seeds = [self._seed(kind, *key) for key in lineage]
    answered = []
    if prompts:
      answered = sample(sampler, prompts, self.draw, samples=self.samples, seeds=seeds)
    return ask.grade(queries, [_of_kind(group, kind) for group in answered], numbers)

  def _synthesise(self, sampler: Sampler, ask: Ask, solved: Sequence[Group], clock) -> tuple[list, list, object]:
    """(groups of written texts with their rewards, groups of solutions of the variants, counts)."""
    contexts, too_long = self._contexts(sampler, ask, solved)
    texts = self._write(sampler, contexts)
    clock.lap('write')
    variants, rejected = self._variants(sampler, contexts, texts)
    answers = self._solve(
      sampler,
      ask,
      [v.query for v in variants],
      [v.prompt for v in variants],
      [contexts[v.context].group.number for v in variants],
      [(contexts[v.context].group.number, contexts[v.context].place, v.place) for v in variants],
      VARIANT,
    )
    clock.lap('variant')
    written = self._rewarded(contexts, texts, variants, answers)
    counts = measures.Counts(
      half_solved=len({id(context.group) for context in contexts}),
      problems=len(solved),
      contexts=len(contexts),
      contexts_too_long=too_long,
      variants_rejected=rejected,
      correct=tuple(int(group.right.sum()) for group in answers),
    )
    return written, answers, counts

  def _half_solved(self, groups: Sequence[Group]) -> list[Group]:
    return [group for group in groups if self.synthesis.half_solved(int(group.right.sum()), len(group.right))]

  def _contexts(self, sampler: Sampler, ask: Ask, solved: Sequence[Group]) -> tuple[list[Context], int]:
    """(the right responses from which variants are written, how many prompts were too long)."""
    found = []
    for group in self._half_solved(solved):
      for place in np.flatnonzero(group.right == 1):
        asked = prompts.messages(group.trajectories[place].response, self.synthesis.template)
        found.append(Context(group, int(place), sampler.policy.prompt(asked)))
    kept = round(self.synthesis.keep * len(found))
    rng = np.random.default_rng((self.seed, ask.step, 1))
    chosen = rng.permutation(len(found))[:kept]
    found = [found[i] for i in sorted(chosen)]
    fitting = [context for context in found if self._fits(sampler, context.prompt)]
    return fitting, len(found) - len(fitting)

  def _write(self, sampler: Sampler, contexts: Sequence[Context]) -> list[list[Trajectory]]:
    """Texts that are to have a variant in them, `variants` from each context."""
    if not contexts:
      return []
    seeds = [self._seed(WRITE, context.group.number, context.place) for context in contexts]
    asked = [context.prompt for context in contexts]
    texts = sample(sampler, asked, self.draw, samples=self.synthesis.variants, seeds=seeds)
    return [_of_kind(group, WRITE) for group in texts]

  def _variants(
    self, sampler: Sampler, contexts: Sequence[Context], texts: Sequence[Sequence[Trajectory]]
  ) -> tuple[list[Variant], int]:
    """(variants that can be solved, number of texts whose variant is too long or gives its answer away)."""
    found = []
    rejected = 0
    for number, (context, group) in enumerate(zip(contexts, texts)):
      answer = context.group.query.answer
      for place, text in enumerate(group):
        problem = prompts.extract(text.response)
        if problem is None:
          continue
        asked = Query([{'role': 'user', 'content': problem}], answer=answer)
        query = prompts.instructed(asked, self.synthesis.instruction)
        prompt = sampler.policy.prompt(query.messages)
        leaky = not self.synthesis.leaks and prompts.leaks(problem, answer)
        if leaky or not self._fits(sampler, prompt):
          rejected += 1
        else:
          found.append(Variant(number, place, query, prompt))
    return found, rejected

  def _rewarded(
    self,
    contexts: Sequence[Context],
    texts: Sequence[list[Trajectory]],
    variants: Sequence[Variant],
    answers: Sequence[Group],
  ) -> list[Group]:
    """The groups of texts; a text is worth 1 if its variant is solved neither too rarely nor too often, else 0."""
    rewards = np.zeros((len(contexts), self.synthesis.variants), np.float32)
    for variant, group in zip(variants, answers):
      correct = int(group.right.sum())
      rewards[variant.context, variant.place] = self.synthesis.rewarded(correct, len(group.right))
    return [_written(*each) for each in zip(contexts, texts, rewards)]

  def _again(self, sampler: Sampler, ask: Ask, solved: Sequence[Group]) -> list[Group]:
    """Further groups of the half-solved problems themselves."""
    half = self._half_solved(solved)
    asked = [group.trajectories[0].prompt for group in half]
    numbers = [group.number for group in half]
    return self._solve(sampler, ask, [g.query for g in half], asked, numbers, [(n, 0) for n in numbers], VARIANT)

  def _teaches(self, group: Group) -> bool:
    """Whether a group of texts is trained on: the released code asks for one that is rewarded, the text for both."""
    if self.synthesis.strict:
      return _mixed(group)
    return bool(group.right.any())

  def _fits(self, sampler: Sampler, prompt) -> bool:
    return len(prompt.tokens) + self.draw.max_new <= sampler.longest

  def _seed(self, *key: int) -> int:
    """A seed of the engine from a key, for all samples of one prompt."""
    return int(np.random.SeedSequence((self.seed, *key)).generate_state(1)[0])


def _of_kind(group: Sequence[Trajectory], kind: int) -> list[Trajectory]:
  return [dataclasses.replace(t, kind=kind) for t in group]


def _mixed(group: Group) -> bool:
  return bool(mixed(group.right, group.valid))


def _written(context: Context, texts: list[Trajectory], rewards: np.ndarray) -> Group:
  """The texts of one context as a group with given rewards."""
  return Group(
    number=context.group.number,
    query=context.group.query,
    trajectories=texts,
    weights=np.ones(1, np.float32),
    rewards=rewards[:, None],
    totals=rewards,
    right=rewards,
    valid=np.ones(len(texts), bool),
    lost=np.zeros(len(texts), bool),
  )
