"""Samples many responses to one prompt as a tree, at test time.

  python -m rl.rollout.tree.sample --model=FOLDER --prompt='What is 12 + 30?' [--k=64 --segment=64 --max_new=512]

Prints the responses as lines of JSON, most frequent text first, and on stderr how many tokens were decoded for how many
delivered.
"""

import collections
import dataclasses
import json
import sys
from collections.abc import Sequence

import jax

from core import mesh
from core.engine import EngineSize
from core.launch import command
from core.launch.fields import field
from rl import policy as policies
from rl.policy import Draw
from rl.rollout.groups import Ask
from rl.rollout.sampler import Sampler
from rl.rollout.tree.plan import Tree
from rl.rollout.tree.settings import Branching

MOST = 1024


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str | None = field(None, 'folder of a checkpoint, or tiny-text')
  prompt: str | None = field(None, 'what the user says')
  k: int = field(16, f'responses, at most {MOST}', low=1)
  segment: int = field(64, 'tokens of a segment', low=1)
  branch: int = field(2, 'continuations of each path after a segment', low=1)
  first: int = field(2, 'paths that begin at the prompt', low=1)
  max_new: int = field(512, 'tokens of a response', low=1)
  temperature: float = field(0.6, 'of sampling')
  seed: int = field(0, 'of sampling')
  slots: int = field(64, 'sequences decoded together', low=1)
  pages: int = field(2048, 'pages of the cache', low=1)
  page_size: int = field(16, 'tokens of a page', low=1)

  def __post_init__(self):
    if not self.model or not self.prompt:
      raise ValueError('--model and --prompt are needed')
    if self.k > MOST:
      raise ValueError(f'--k={self.k}: expected at most {MOST}')
    if self.temperature <= 0:
      raise ValueError(f'--temperature={self.temperature}: expected a positive number; greedy paths do not branch')


def work(o: Options) -> None:
  """Samples and prints."""
  place = mesh.make(devices=jax.devices())
  policy, weights = policies.load(o.model, place, seed=o.seed)
  size = EngineSize(slots=o.slots, pages=o.pages, page_size=o.page_size, segment=min(o.segment, 16))
  sampler = Sampler(policy, weights, size, mesh.Share(place, place))
  branching = Branching(segment=o.segment, branch=o.branch, first_low=o.first, first_high=o.first)
  plan = Tree(Draw(o.max_new, o.temperature), branching, width=o.k, seed=o.seed)
  prompt = policy.prompt([{'role': 'user', 'content': o.prompt}])
  (group,) = plan(sampler, Ask(0, 0, [0], [None], [prompt]))
  for text, count in collections.Counter(t.response for t in group).most_common():
    print(json.dumps({'response': text, 'count': count}, ensure_ascii=False))
  delivered = sum(len(t.tokens) for t in group)
  print(f'{sampler.engine.stats.decoded} tokens decoded, {delivered} delivered', file=sys.stderr)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
