"""Search question answering: F1 and exact match as DeepResearcher computes them, and a model's judgement.

arXiv 2504.03160 (DeepResearcher) calls the judged share MBE; arXiv 2508.16153 (Memento) calls it PM.
"""

import collections
import functools
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.harness import judge as judging
from bench.harness.rows import RowError, iter_texts, load_examples, row_id
from bench.harness.task import NO_ANSWER, OK, Answer, Column, Example, Item, Outcome, Sampling, Task
from core.text import parse_json

SEPARATOR = '<|answer_split|>'
INSTRUCTION = (
  'Answer the question. You may think first between <think> and </think>. '
  'Then give the answer, as short as it can be, between <answer> and </answer>.'
)
JUDGE = judging.Template("""\
You compare an answer to a question with the answers that are accepted for it.
The answer is correct if it means the same as at least one accepted answer; it need not use the same words.
Longer answers are fine as long as they commit to one meaning and that meaning is accepted.

Question: $question
Accepted answers: $accepted
Answer to judge: $prediction

Reply with one JSON object and nothing else:
{"rationale": "<one sentence>", "judgement": "correct" or "incorrect"}""")

_PUNCTUATION = str.maketrans(string.punctuation, ' ' * len(string.punctuation))
_SQUAD_DELETE = str.maketrans('', '', string.punctuation)
_ARTICLES = re.compile(r'\b(a|an|the)\b')
_ACCEPTED = ('answers', 'golden_answers', 'ground_truth', 'answer', 'gold')
_TAGS = ('think', 'tool_call', 'answer')


def normalise(text: str) -> str:
  """Lower case, ASCII punctuation as blanks, single blanks. Articles and accents stay."""
  return ' '.join(text.lower().translate(_PUNCTUATION).split())


def normalise_squad(text: str) -> str:
  """SQuAD's own: punctuation and articles deleted."""
  return ' '.join(_ARTICLES.sub(' ', text.lower().translate(_SQUAD_DELETE)).split())


def exact_match(prediction: str, accepted: Sequence[str]) -> float:
  """1 when the normalised prediction is an accepted answer, else 0."""
  predicted = normalise(prediction)
  return float(any(normalise(gold) == predicted for gold in accepted))


def set_f1(prediction: str, accepted: Sequence[str]) -> float:
  """The best F1 over the accepted answers, tokens as sets."""
  predicted = set(normalise(prediction).split())
  scores = [_f1(predicted, set(normalise(gold).split())) for gold in accepted]
  return max(scores, default=0.0)


def _f1(predicted: set, accepted: set) -> float:
  common = len(predicted & accepted)
  if common:
    return 2 * common / (len(predicted) + len(accepted))
  return 0.0


def squad_f1(prediction: str, accepted: Sequence[str]) -> float:
  """The best F1 over the accepted answers, tokens as multisets, SQuAD's normalisation."""

  def count(text: str) -> collections.Counter:
    return collections.Counter(normalise_squad(text).split())

  predicted = count(prediction)

  def f1(gold: str) -> float:
    wanted = count(gold)
    common = (predicted & wanted).total()
    if common:
      return 2 * common / (predicted.total() + wanted.total())
    return 0.0

  return max(map(f1, accepted), default=0.0)


def final_answer(text: str) -> str | None:
  """The first answer element; None without one, or when think, tool_call or answer tags are unbalanced."""
  if any(text.count(f'<{tag}>') != text.count(f'</{tag}>') for tag in _TAGS):
    return None
  _, opening, rest = text.partition('<answer>')
  answer, closing, _ = rest.partition('</answer>')
  if opening and closing:
    return answer.strip()
  return None


def read_judgement(text: str) -> bool:
  """True for correct. The outermost braces hold the JSON object. Raises ValueError for anything else."""
  start = text.find('{')
  end = text.rfind('}')
  reply = None
  if 0 <= start < end:
    reply = parse_json(text[start : end + 1])
  word = None
  if isinstance(reply, dict):
    word = reply.get('judgement', reply.get('judgment'))
  if not isinstance(word, str) or word.strip().lower() not in ('correct', 'incorrect'):
    raise ValueError('the judge wrote neither "correct" nor "incorrect"')
  return word.strip().lower() == 'correct'


def qa(*, judge=None, judgements: str = '', plain: bool = False) -> Task:
  """F1, EM and PM. judgements: file of verdicts, read and added to. plain: the whole output is the answer."""
  asked = None
  if judgements:
    asked = judging.Judge(judge, JUDGE, read_judgement, Path(judgements))
  return Task(
    name='qa',
    primary='f1',
    template=INSTRUCTION,
    load=functools.partial(load_examples, make=_example),
    prompt=lambda example: [{'role': 'user', 'content': f'{INSTRUCTION}\n\n{example.fields["question"]}'}],
    score=functools.partial(_score, judge=asked, plain=plain),
    composites=macro_means,
    sampling=Sampling(max_tokens=4096),
    settings={'f1': 'sets of tokens', 'plain': plain, **(asked.settings() if asked else {})},
    group_metrics=('f1', 'em', *(('pm',) if asked else ())),
  )


def _example(where: str, row: Mapping) -> Example:
  question = next((row[f] for f in ('question', 'query', 'problem') if isinstance(row.get(f), str)), None)
  golds = next((row[f] for f in _ACCEPTED if row.get(f)), None)
  if isinstance(golds, dict):
    golds = golds.get('target')
  if question is None or golds is None:
    raise RowError('missing:question' if question is None else 'missing:answer')
  accepted = tuple(part.strip() for text in iter_texts(golds) for part in text.split(SEPARATOR))
  if not accepted:
    raise RowError('missing:answer')
  source = row.get('data_source') or row.get('source') or 'all'
  return Example(row_id(row, where), {'question': question, 'accepted': accepted}, {'source': str(source)})


def _score(pairs: Iterable[tuple[Example, Answer]], *, judge, plain) -> Iterator[Outcome]:
  pairs = list(pairs)
  found = [answer.text.strip() or None if plain else final_answer(answer.text) for _, answer in pairs]
  verdicts = _judged(pairs, found, judge) if judge else {}
  for i, (example, _) in enumerate(pairs):
    accepted = example.fields['accepted']
    text = found[i]
    scores = {'f1': 0.0, 'em': 0.0, 'squad f1': 0.0}
    status = NO_ANSWER
    if text is not None:
      status = OK
      scores = {'f1': set_f1(text, accepted), 'em': exact_match(text, accepted), 'squad f1': squad_f1(text, accepted)}
    if judge:
      verdict = verdicts.get(i)
      scores['pm'] = max(scores['em'], float(bool(verdict and verdict.value)))
      if verdict and verdict.status != judging.OK:
        status = verdict.status
    yield Outcome(status, text, {name: (value, 1.0) for name, value in scores.items()})


def _judged(pairs, found, judge) -> dict[int, judging.Verdict]:
  """Verdicts where they are needed: an exact match needs none."""
  questions = {}
  for i, (example, _) in enumerate(pairs):
    accepted = example.fields['accepted']
    if found[i] is not None and not exact_match(found[i], accepted):
      question = example.fields['question']
      questions[i] = {'question': question, 'prediction': found[i], 'accepted': ' | '.join(accepted)}
  return dict(zip(questions, judge.ask_all(list(questions.values()))))


def macro_means(items: Sequence[Item]) -> dict[str, list[Column]]:
  """The mean over sources, in addition to the mean over questions; papers print either."""
  sources = sorted({item.example.groups['source'] for item in items})
  if len(sources) < 2:
    return {}
  metrics = dict.fromkeys(metric for item in items for metric in item.scores)
  of = lambda metric: [Column(metric, ('source', source)) for source in sources]
  return {f'{metric}, mean of sources': of(metric) for metric in metrics}
