"""Mathematics by sampling: AIME and other sets with one short answer a problem."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from bench import passk
from bench.harness.rows import RowError, load_examples, row_id
from bench.harness.task import CUT_OFF, NO_ANSWER, Answer, Data, Example, Outcome, Problem, Sampling, Scores, Task
from rl.rewards import answers
from rl.rewards.guards.limited import Limited

INSTRUCTION = 'Please reason step by step, and put your final answer within \\boxed{}.'
SECONDS = 20.0

_PROBLEM = ('problem', 'question', 'prompt', 'input')
_GROUPS = ('year', 'subject', 'level', 'source', 'data_source')
_IDS = ('id', 'problem_id', 'unique_id', 'problem_idx')
_ANSWER = ('answer', 'expected_answer', 'gold', 'ground_truth', 'reward_model')


def aime(*, last_number: bool = False) -> Task:
  """AIME: integers 0 to 999, compared as exact rationals.

  last_number: take an unboxed last number as the answer.
  """
  return _task(
    'aime',
    functools.partial(_load, integers=True),
    exact=True,
    last_number=last_number,
    sampling=Sampling(samples=32, temperature=0.6, top_p=0.95, max_tokens=32_768),
  )


def maths(*, last_number: bool = False, seconds: float = SECONDS) -> Task:
  """Any answers in LaTeX: exact, then symbolic under a limit.

  seconds: wall-clock limit for one comparison.
  """
  return _task(
    'maths',
    functools.partial(_load, integers=False),
    exact=False,
    last_number=last_number,
    sampling=Sampling(samples=4, temperature=0.6, top_p=0.95, max_tokens=32_768),
    seconds=seconds,
  )


def _task(name, load, *, exact, last_number, sampling, seconds=SECONDS) -> Task:
  from bench.report import charts

  return Task(
    name=name,
    primary='accuracy',
    template=INSTRUCTION,
    load=load,
    prompt=lambda example: [{'role': 'user', 'content': f'{example.fields["problem"]}\n\n{INSTRUCTION}'}],
    score=functools.partial(score, exact=exact, last_number=last_number, seconds=seconds),
    combine=combine,
    sampling=sampling,
    settings={
      'comparison': 'exact' if exact else 'exact, then math-verify',
      'last_number': last_number,
      'seconds': seconds,
    },
    group_metrics=('accuracy',),
    charts=charts.sampling_curves,
  )


def _load(path: str, *, integers: bool) -> Data:
  data = load_examples(path, functools.partial(_example, integers=integers))
  first: dict[str, str] = {}
  kept = []
  repeats = []
  for example in data.examples:
    text = ' '.join(example.fields['problem'].split())
    if text in first:
      repeats.append(Problem(f'id {example.id}', f'repeats:{first[text]}'))
    else:
      first[text] = example.id
      kept.append(example)
  return Data(tuple(kept), data.read, data.files, (*data.skipped, *repeats), data.repaired)


def _example(where: str, row: Mapping, *, integers: bool) -> Example:
  lower = {str(key).lower(): value for key, value in row.items()}
  problem = _text(lower, _PROBLEM)
  gold = _text(lower, _ANSWER)
  value = answers.rational(gold)
  if integers and (value is None or value.denominator != 1 or not 0 <= value <= 999):
    raise RowError(f'answer is not an integer from 0 to 999: {gold[:40]!r}')
  groups = {key: str(lower[key]) for key in _GROUPS if lower.get(key)}
  return Example(row_id(lower, where, *_IDS), {'problem': problem, 'answer': gold}, groups)


def _text(row: Mapping, names: Sequence[str]) -> str:
  """The first of the named fields; a chat is its last user turn, a reward record its ground truth."""
  for name in names:
    value = row.get(name)
    if isinstance(value, list):
      turns = [turn['content'] for turn in value if isinstance(turn, dict) and turn.get('role') == 'user']
      value = turns[-1] if turns else (value[0] if value else None)
    if isinstance(value, dict):
      value = value.get('ground_truth')
    if isinstance(value, (int, float)) and not isinstance(value, bool):
      value = str(value)
    if isinstance(value, str) and value.strip():
      return value.encode('utf-8', 'replace').decode()
  raise RowError(f'missing:{names[0]}')


def score(
  pairs: Iterable[tuple[Example, Answer]], *, exact: bool, last_number: bool, seconds: float
) -> Iterator[Outcome]:
  """The outcomes of pairs of example, whose field `answer` is right, and answer; arguments as of `maths`."""
  verdicts: dict[tuple[str, str], tuple[bool, str]] = {}
  with Limited(answers.symbolically_equal, seconds) as symbolic:
    for example, answer in pairs:
      cut = answer.finish == 'length'
      found = answers.extract(answer.text, finished=not cut, last_number=last_number)
      if found is None:
        yield Outcome(CUT_OFF if cut else NO_ANSWER, None, {'accuracy': (0.0, 1.0)})
        continue
      key = (example.fields['answer'], found)
      if key not in verdicts:
        verdicts[key] = answers.compare(*key, None if exact else symbolic)
      right, status = verdicts[key]
      yield Outcome(
        status,
        found[: answers.MAX_CHARS],
        {'accuracy': (float(right), 1.0)},
        {'vote': answers.canonical(found) if status != 'too_large' else None},
      )


def combine(example: Example, given: Sequence[Answer], outcomes: Sequence[Outcome]) -> Scores:
  """Mean accuracy; of several samples also pass@k, maj@k and, where every answer has a reward, best@k."""
  right = [outcome.scores['accuracy'][0] for outcome in outcomes]
  n = len(right)
  scores = {'accuracy': (sum(right) / n, 1.0)}
  if n == 1:
    return scores
  votes = [outcome.detail.get('vote') for outcome in outcomes]
  rewards = [answer.reward for answer in given]
  points = passk.curve_points(n)
  scores |= {f'pass@{k}': (passk.pass_at_k(n, round(sum(right)), k), 1.0) for k in points}
  scores |= {f'maj@{k}': (passk.maj_at_k(votes, [bool(r) for r in right], k), 1.0) for k in points}
  if None not in rewards:
    scores |= {f'best@{k}': (passk.best_of_k(rewards, right, k), 1.0) for k in points}
  return scores
