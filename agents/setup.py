"""What training and evaluation share: the policy, its protocol, rollout engine, tools and problems."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from agents.configs import Config
from agents.rollout.grade import answer, reward
from agents.rollout.loop import Drawing, rollout
from agents.rollout.problems import PHRASES, Problem, product, read
from agents.rollout.protocol import END, PREAMBLE, TAGS, Protocol, python_schema, system_text
from agents.rollout.tools import Runner, View, python_tool
from agents.rollout.trajectory import Bounds, Trajectory
from agents.sandbox import Pool
from agents.service.client import Client
from agents.service.dispatcher import Dispatcher
from core import decoder, mesh, params
from core.engine import Engine
from core.files.tokenizers import byte_tokenizer, load_tokenizer
from rl import evaluate

HELDOUT_SEED = 3
LOST = 0.5  # share of a rollout's calls that may fail for want of a tool; learning from more would unlearn its use
TOKEN = 'ESPALIER_TOOLS_TOKEN'  # environment variable with the token of `agents.serve_tools`


@dataclasses.dataclass(frozen=True)
class Result(evaluate.Result):
  """Held-out answers with the conversations that led to them."""

  traces: Sequence[Trajectory] = ()


@dataclasses.dataclass
class Setup:
  """A policy with everything around it. `weights` are the initial ones, on the mesh `place`, where it is updated.

  The engine, on this process's own devices, has those of the last `update`.
  """

  config: Config
  model: decoder.Config
  weights: decoder.Params
  place: mesh.Mesh
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

  def rollout(
    self, problems: Sequence[Problem], seeds: Sequence[int], bounds: Bounds, temperature: float
  ) -> list[Trajectory]:
    """One trajectory for each problem and seed. Raises ConnectionError when the tools are gone."""
    prompts = [self.protocol.prompt(p.question) for p in problems]
    traces = rollout(
      [self.engine],
      prompts,
      seeds,
      protocol=self.protocol,
      runner=self.runner,
      bounds=bounds,
      drawing=Drawing(temperature),
      lag=self.config.lag,
    )
    calls = [r for t in traces for r in t.responses]
    lost = [r for r in calls if r.status == 'harness']
    if len(lost) > LOST * len(calls):
      raise ConnectionError(
        f'{len(lost)} of {len(calls)} tool calls of a rollout were lost; '
        'the same command goes on from the last checkpoint'
      )
    return traces

  def update(self, weights) -> None:
    """New weights for the engine."""
    self.engine.update(params.cast(weights, self.config.dtype))

  def evaluate(self, n: int) -> Result:
    """Answers to the first n held-out problems, within the widest bounds of all stages."""
    c = self.config
    problems = self.heldout[:n] or [product('heldout', HELDOUT_SEED, i) for i in range(n)]
    traces = self.rollout(problems, self.seeds(HELDOUT_SEED, 0, len(problems)), c.bounds, c.eval_temperature)
    right = [bool(reward(t, p.answer)) for t, p in zip(traces, problems)]
    return Result(problems, [answer(t) or '' for t in traces], right, traces=traces)


def check_shares(config: Config) -> None:
  """Raises ValueError when the processes cannot share out the work."""
  count = jax.process_count()
  for name, n in (('prompts', config.prompts), ('sft.batch', config.sft.batch)):
    if n % count:
      raise ValueError(f'{name}={n}: expected a multiple of the {count} processes')
  if config.prompts * config.group // count % config.updates:
    raise ValueError(
      f'updates={config.updates}: does not divide the {config.prompts * config.group // count} '
      'trajectories of a process'
    )


@contextlib.contextmanager
def tool_runner(config: Config) -> Iterator[Runner]:
  """The Python tool: in a sandbox of this process, or at `config.tools`; ends what it started."""
  with contextlib.ExitStack() as stack:
    runner = Runner({})
    stack.callback(runner.close)
    if config.tools:
      source = Client(config.tools, token=os.environ.get(TOKEN))
    else:
      source = Dispatcher(stack.enter_context(Pool(config.workers, profile=config.profile)))
    stack.callback(lambda: runner.wait(source.close()))
    runner.tools[config.tool] = python_tool(source.run, View(stream=config.view, seconds=config.lag is None))
    yield runner


@contextlib.contextmanager
def setup(config: Config) -> Iterator[Setup]:
  """The policy of a configuration, with its tools running; ends them. Raises ValueError, OSError as loading does."""
  check_shares(config)
  place, home = mesh.make(**dataclasses.asdict(config.mesh)), mesh.share(1)
  train, heldout = (read(path) if path else () for path in (config.data, config.heldout))
  if config.model == 'tiny':
    tokenizer = byte_tokenizer([*TAGS, *PHRASES], eos=END, pad=END)
    protocol = Protocol(tokenizer, markup=PHRASES)
    model = decoder.CONFIGS['tiny']
    make = functools.partial(decoder.init, config=model)
    weights = jax.jit(make, out_shardings=mesh.shardings(decoder.spec(model), place))(jax.random.key(config.seed))
  else:
    protocol = Protocol(
      load_tokenizer(config.model), system=system_text([python_schema(config.tool)]), preamble=PREAMBLE
    )
    model, weights = decoder.load(config.model, mesh=place, dtype='float32')
  with tool_runner(config) as runner:
    engine = Engine(params.cast(weights, config.dtype), model, **dataclasses.asdict(config.engine), mesh=home)
    yield Setup(config, model, weights, place, protocol, engine, runner, train, heldout)
