"""What still fits a model's context: pinned turns always, of the others the newest, calls never without results."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

CHARACTERS = 4  # of a token, roughly
OVERHEAD = 4  # tokens of a turn in addition to its words


@dataclasses.dataclass(frozen=True)
class Group:
  """Turns that stay or go together, such as an assistant's calls and their results."""

  turns: tuple[Mapping, ...]
  pinned: bool = False

  @property
  def tokens(self) -> int:
    return sum(map(estimate, self.turns))


def estimate(turn: Mapping) -> int:
  """About how many tokens a turn takes, its tool calls counted."""
  content = turn['content']
  text = content if isinstance(content, str) else json.dumps(content, default=str)
  calls = ''
  if turn.get('tool_calls'):
    calls = json.dumps(turn['tool_calls'])
  return OVERHEAD + (len(text) + len(calls)) // CHARACTERS


def trim(groups: Sequence[Group], limit: int) -> list[Mapping]:
  """The turns of the pinned groups and of the newest others that still fit in `limit` tokens, in order."""
  room = limit - sum(group.tokens for group in groups if group.pinned)
  kept = []
  for group in reversed(groups):
    if not group.pinned:
      room -= group.tokens
    if group.pinned or room >= 0:
      kept.append(group)
  return [turn for group in reversed(kept) for turn in group.turns]
