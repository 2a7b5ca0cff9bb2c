"""What training and evaluation share: the policy, its protocol, rollout engine, tools and problems."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from agents.configs import Config
from agents.dispatcher import Dispatcher
from agents.grade import answer, reward
from agents.loop import Drawing, rollout
from agents.problems import PHRASES, Problem, product, read
from agents.protocol import END, PREAMBLE, TAGS, Protocol, python_schema, system_text
from agents.sandbox import Pool
from agents.tools import Runner, View, python_tool
from agents.trajectory import Bounds, Trajectory
from core import decoder
from core.tokenizers import byte_tokenizer, load_tokenizer
from rl import evaluate
from rl.engine import Engine

HELDOUT_SEED = 3


@dataclasses.dataclass(frozen=True)
class Result(evaluate.Result):
  """Held-out answers with the conversations that led to them."""

  traces: Sequence[Trajectory] = ()


@dataclasses.dataclass
class Setup:
  """A policy with everything around it. `weights` are the initial ones; the engine has those of the last `update`."""

  config: Config
  model: decoder.Config
  weights: decoder.Params
  protocol: Protocol
  engine: Engine
  runner: Runner
  train: Sequence[Problem] = ()  # empty: products
  heldout: Sequence[Problem] = ()

  def problem(self, stream: int, number: int) -> Problem:
    """Training problem `number` of an endless stream; those of a file come round again in another order."""
    if not self.train:
      return product('train', self.config.seed * 16 + stream, number)
    epoch, at = divmod(number, len(self.train))
    return self.train[np.random.default_rng([self.config.seed, epoch]).permutation(len(self.train))[at]]

  def seeds(self, stream: int, step: int, n: int) -> list[int]:
    """Sampling seeds of n trajectories, drawn for this step of this stream alone."""
    return np.random.default_rng([self.config.seed, stream, step]).integers(0, 2**31, n).tolist()

  def rollout(self, problems: Sequence[Problem], seeds: Sequence[int], bounds: Bounds,
              temperature: float) -> list[Trajectory]:
    """One trajectory for each problem and seed."""
    prompts = [self.protocol.prompt(p.question) for p in problems]
    return rollout([self.engine], prompts, seeds, protocol=self.protocol, runner=self.runner, bounds=bounds,
                   drawing=Drawing(temperature), lag=self.config.lag)

  def update(self, weights) -> None:
    """New weights for the engine."""
    self.engine.update(weights)

  def evaluate(self, n: int) -> Result:
    """Answers to the first n held-out problems, within the widest bounds of all stages."""
    c = self.config
    problems = self.heldout[:n] or [product('heldout', HELDOUT_SEED, i) for i in range(n)]
    traces = self.rollout(problems, self.seeds(HELDOUT_SEED, 0, len(problems)), c.bounds, c.eval_temperature)
    right = [bool(reward(t, p.answer)) for t, p in zip(traces, problems)]
    return Result(problems, [answer(t) or '' for t in traces], right, traces=traces)


@contextlib.contextmanager
def setup(config: Config) -> Iterator[Setup]:
  """The policy of a configuration, with its tools running; ends them. Raises ValueError, OSError as loading does."""
  train, heldout = (read(path) if path else () for path in (config.data, config.heldout))
  if config.model == 'tiny':
    tokenizer = byte_tokenizer([*TAGS, *PHRASES], eos=END, pad=END)
    protocol = Protocol(tokenizer, markup=PHRASES)
    model = decoder.CONFIGS['tiny']
    weights = decoder.init(jax.random.key(config.seed), model)
  else:
    protocol = Protocol(load_tokenizer(config.model), system=system_text([python_schema(config.tool)]),
                        preamble=PREAMBLE)
    model, weights = decoder.load(config.model)
  with contextlib.ExitStack() as stack:
    pool = stack.enter_context(Pool(config.workers, profile=config.profile))
    runner = Runner({})
    stack.callback(runner.close)
    dispatcher = Dispatcher(pool)
    stack.callback(lambda: runner.wait(dispatcher.close()))
    runner.tools[config.tool] = python_tool(dispatcher.run, View(stream=config.view, seconds=config.lag is None))
    engine = Engine(weights, model, **dataclasses.asdict(config.engine))
    yield Setup(config, model, weights, protocol, engine, runner, train, heldout)
