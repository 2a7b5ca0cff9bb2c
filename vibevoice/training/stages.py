"""The curriculum: stages of training with longer and longer rows (arXiv 2508.19205, §2.2: 4,096 to 65,536 tokens)."""

import dataclasses
from collections.abc import Sequence

SHORTEST = 8  # tokens


@dataclasses.dataclass(frozen=True)
class Stage:
  """Rows of the steps before `end`: at most `length` tokens, of which `frames` are frames."""

  end: int
  length: int
  frames: int


def check(curriculum: Sequence[tuple[int, int]], *, steps: int, length: int) -> None:
  """Raises ValueError, naming the stage, unless pairs (steps, length) grow to `length` and last `steps` in sum."""
  before = SHORTEST - 1
  for number, (count, longest) in enumerate(curriculum, start=1):
    if count < 1 or longest <= before:
      raise ValueError(
        f'curriculum, stage {number}: {count} steps of {longest} tokens; expected 1 or more steps and more than '
        f'{before} tokens'
      )
    before = longest
  if not curriculum:
    return
  total = sum(count for count, _ in curriculum)
  if total != steps or before != length:
    raise ValueError(
      f'curriculum: {total} steps that end with {before} tokens; expected steps={steps} that end with length={length}'
    )


def listed(curriculum: Sequence[tuple[int, int]], *, steps: int, length: int, frames: int) -> tuple[Stage, ...]:
  """The stages; one of the whole run without a curriculum. Frames are shortened as rows are."""
  made = []
  end = 0
  for count, longest in curriculum or ((steps, length),):
    end += count
    made.append(Stage(end, longest, max(1, frames * longest // length)))
  return tuple(made)
