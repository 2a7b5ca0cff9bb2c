"""Demonstrations for a policy from scratch that is to do more than to solve problems: variants, and second passes."""

from collections.abc import Callable, Sequence

from rl.learning.supervised import solutions
from rl.policy import Trajectory
from rl.rollout import vision_sr1
from rl.rollout.collect import QuerySource
from rl.rollout.svs import prompts
from rl.rollout.vision_sr1 import prompts as sr1_prompts
from rl.tasks import WARMUP_SEED


def demonstrations(source: QuerySource, template: str, max_new: int) -> Callable[[Sequence[int]], list[Trajectory]]:
  """Even numbers show a solution, odd ones a variant that `Task.vary` writes from a solution.

  Raises ValueError for a task that cannot vary its queries.
  """
  if source.task.vary is None:
    raise ValueError('the task has no `vary`: expected one that writes other problems with the same answer')
  solved = solutions(source, max_new)

  def written(number: int) -> Trajectory:
    query = source.query(number, WARMUP_SEED)
    prompt = source.policy.prompt(prompts.messages(query.solution, template))
    text = f'```text\n{source.task.vary(query, number)}\n```'
    return Trajectory.given(prompt, source.policy.response(text)[:max_new])

  def examples(numbers: Sequence[int]) -> list[Trajectory]:
    shown = solved(numbers)
    return [written(n) if n % 2 else t for n, t in zip(numbers, shown)]

  return examples


def second_passes(
  source: QuerySource, settings: vision_sr1.Sr1, max_new: int
) -> Callable[[Sequence[int]], list[Trajectory]]:
  """Even numbers show a solution, odd ones its reasoning as the answer to its own description, as text alone.

  Of a task with guesses every other solution is one.
  """
  solved = solutions(source, max_new)

  def guessed(number: int) -> Trajectory:
    query = source.query(number, WARMUP_SEED)
    text = source.task.guess(query, number)
    return Trajectory.given(source.prompt(query), source.policy.response(text)[:max_new])

  def from_text(number: int) -> Trajectory:
    query = source.query(number, WARMUP_SEED)
    described = sr1_prompts.description(query.solution)
    question = sr1_prompts.question(query, settings.instruction)
    prompt = source.policy.prompt(sr1_prompts.second(described, question, settings.second))
    _, _, reasoning = query.solution.rpartition('</description>')
    return Trajectory.given(prompt, source.policy.response(reasoning)[:max_new])

  def examples(numbers: Sequence[int]) -> list[Trajectory]:
    found = []
    for number, solution in zip(numbers, solved(numbers)):
      if number % 2:
        found.append(from_text(number))
      elif number % 4 and source.task.guess:
        found.append(guessed(number))
      else:
        found.append(solution)
    return found

  return examples
