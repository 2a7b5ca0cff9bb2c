"""CMPhysBench: graduate condensed-matter physics, scored by SEED (arXiv 2508.18124)."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tqdm import tqdm

from bench import passk
from bench.harness.rows import RowError, load_examples, need, row_id
from bench.harness.task import CUT_OFF, NO_ANSWER, Answer, Example, Outcome, Sampling, Scores, Task, mean_over_samples
from rl.rewards import answers
from rl.rewards.extract import boxed_answer

TYPES = ('Expression', 'Equation', 'Tuple', 'Interval', 'Numeric')
FULL = 100 - 1e-4

SYSTEM = """You are an expert in condensed-matter physics. Solve the problem step by step.
Use the given symbols only, and do not introduce any others.
Write your reasoning between <think> and </think>. After it, give the final answer as readable LaTeX in a \
single \\boxed{} environment."""
SYMBOLS = 'Symbols you may use:'


def cmphysbench(*, tiers: str = '2025-11', compat: bool = False, processes: int = 2) -> Task:
  """SEED and accuracy.

  tiers: which published SEED scale. compat: the public code's rules. processes: scorers at work.
  """
  from bench import seed

  settings = seed.Settings(tiers=tiers, mode='compat' if compat else 'strict')
  if processes < 1:
    raise ValueError(f'processes is {processes}, expected at least 1')
  return Task(
    name='cmphysbench',
    primary='seed',
    template=f'{SYSTEM}\n{SYMBOLS}',
    load=functools.partial(load_examples, make=functools.partial(_example, settings=settings)),
    prompt=_prompt,
    score=functools.partial(_score, settings=settings, processes=processes),
    combine=combine,
    sampling=Sampling(temperature=0.6, top_p=0.95, max_tokens=16_384),
    settings={'tiers': settings.tiers, 'mode': settings.mode, 'scorer version': seed.VERSION},
    group_metrics=('seed', 'accuracy'),
    percent=False,
  )


def _example(where: str, row: Mapping, *, settings) -> Example:
  from bench import seed

  kind = need(row, 'answer_type')
  if kind not in TYPES:
    raise RowError(f'answer_type is {kind[:40]!r}')
  golds = row.get('final_answer')
  if isinstance(golds, str):
    golds = [golds]
  if not golds or not isinstance(golds[0], str) or not golds[0].strip():
    raise RowError(f'empty_answer ({kind}, {row.get("topic") or "no topic"})')
  # The worked solution is in the row too; it is not copied, so that it cannot reach the model.
  fields = {
    'context': row.get('context') or '',
    'question': need(row, 'question'),
    'symbol': row.get('symbol') or '',
    'gold': golds[0],
    'kind': kind,
  }
  fields = {name: value if isinstance(value, str) else str(value) for name, value in fields.items()}
  # Before any model is asked: no answer could be right, and the model is not to blame.
  if settings.mode == 'strict' and not seed.readable(fields['gold'], kind, symbols=fields['symbol']):
    raise RowError(f'unreadable reference {fields["gold"][:60]!r}')
  return Example(row_id(row, where), fields, {'topic': str(row.get('topic') or 'none'), 'answer type': kind})


def _prompt(example: Example) -> list[dict]:
  f = example.fields
  return [
    {'role': 'system', 'content': SYSTEM},
    {'role': 'user', 'content': f'{f["context"]}{f["question"]}\n{SYMBOLS}\n{f["symbol"]}'},
  ]


def _extract(answer: Answer, *, compat: bool) -> str | None:
  """What the output marks as its answer, as in the maths task; compat: the first box of the whole output."""
  if compat:
    return boxed_answer(answer.text, compat=True)
  return answers.extract(answer.text, finished=answer.finish != 'length')


def _score(pairs: Iterable[tuple[Example, Answer]], *, settings, processes) -> Iterator[Outcome]:
  from bench import seed

  pairs = list(pairs)
  boxes = [_extract(answer, compat=settings.mode == 'compat') for _, answer in pairs]
  asked = [i for i, box in enumerate(boxes) if box is not None and box.strip()]
  jobs = []
  for i in asked:
    example, _ = pairs[i]
    fields = example.fields
    jobs.append((fields['gold'], boxes[i], fields['kind'], fields['symbol']))
  with tqdm(total=len(jobs), desc='SEED', unit='answer', disable=not jobs) as bar:
    scores = seed.score_many(
      jobs, processes=min(processes, max(1, len(jobs))), settings=settings, on_result=lambda index, score: bar.update()
    )
  scored = dict(zip(asked, scores))
  for i, (_, answer) in enumerate(pairs):
    if i not in scored:
      status = CUT_OFF if answer.finish == 'length' else NO_ANSWER
      yield Outcome(status, None, {'seed': (0.0, 1.0), 'accuracy': (0.0, 1.0)})
      continue
    score = scored[i]
    yield Outcome(
      score.status,
      boxes[i],
      {'seed': (score.points, 1.0), 'accuracy': (float(score.points >= FULL), 1.0)},
      {'test': score.test, 'flags': list(score.flags)},
    )


def combine(example: Example, given: Sequence[Answer], outcomes: Sequence[Outcome]) -> Scores:
  """Means over the samples and, with more than one, unbiased pass@k."""
  scores = dict(mean_over_samples(example, given, outcomes))
  n = len(outcomes)
  correct = sum(outcome.scores['accuracy'][0] for outcome in outcomes)
  for k in passk.curve_points(n) if n > 1 else ():
    scores[f'pass@{k}'] = (passk.pass_at_k(n, round(correct), k), 1.0)
  return scores
