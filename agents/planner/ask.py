"""One request to a model within an episode's limits."""

from collections.abc import Mapping, Sequence

from agents.planner.context import Group, estimate, trim
from agents.planner.episode import Watch
from core.serving.client import ContextTooLong, Reply, Sampling


def ask(
  model, groups: Sequence[Group], watch: Watch, sampling: Sampling, seed: int, tools: Sequence[Mapping] = ()
) -> Reply:
  """The model's reply to the turns that fit, within the seconds that the episode has left.

  Where the server finds the turns too long, half as many tokens of them are sent, until only pinned turns are left:
  servers count tokens, we estimate them. Raises RequestFailed.
  """
  turns = trim(groups, watch.limits.context_tokens)
  while True:
    try:
      reply = model.chat(turns, sampling, seed, tools, seconds=watch.remaining)
      break
    except ContextTooLong:
      shorter = trim(groups, sum(map(estimate, turns)) // 2)
      if len(shorter) == len(turns):
        raise
      turns = shorter
  watch.spend(turns, reply)
  return reply
