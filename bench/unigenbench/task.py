"""UniGenBench as a task: the model that answers is the judge, and an example is one image."""

import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.harness.rows import sha256
from bench.harness.task import OK, Answer, Column, Data, Example, Item, Outcome, Sampling, Task, each, user_message
from bench.unigenbench import charts, gallery, judging
from bench.unigenbench.prompts import Prompt, load
from bench.unigenbench.taxonomy import PRIMARIES, TEST_POINTS

ALL = 'all checkpoints'
AS_ZERO = ' (unparsed as 0)'
UNPARSED = 'unparsed'
ATTEMPTS = 11


def unigenbench(*, images: str = '', per_prompt: int = 4, suffix: str = 'png', template: str = '') -> Task:
  """UniGenBench. images: folder of {index}_{k}.png. per_prompt: images of each prompt. suffix: of the files.

  template: file with the judge's instruction in place of ours ($prompt, $names, $definitions, $phrases,
  $count).
  """
  if per_prompt < 1:
    raise ValueError(f'per_prompt is {per_prompt}, expected at least 1')
  wording = ''
  if template:
    wording = Path(template).read_text(encoding='utf-8')
  return Task(
    name='unigenbench',
    primary='Overall',
    template=wording or '\n'.join(judging.TEMPLATES.values()),
    load=functools.partial(_load, images=images, per_prompt=per_prompt, suffix=suffix, template=wording),
    prompt=functools.partial(_prompt, template=wording),
    score=each(_score),
    composites=overall,
    sampling=Sampling(max_tokens=4096),
    settings={'per_prompt': per_prompt},
    accept=lambda example, text: _parsed(example, text) is not None,
    attempts=ATTEMPTS,
    metric_order=(ALL, *PRIMARIES, *(point.en for point in TEST_POINTS)),
    group_metrics=(ALL,),
    extras=counts,
    charts=charts.draw,
    gallery=gallery.write,
  )


def _load(path: str, *, images: str, per_prompt: int, suffix: str, template: str) -> Data:
  prompts = load(path)
  examples = tuple(
    _example(prompt, k, Path(images) / f'{prompt.index}_{k}.{suffix}' if images else None)
    for prompt in prompts.prompts
    for k in range(per_prompt)
  )
  if examples:
    judging.question(examples[0].fields['prompt'], template)
  missing = [e.fields['image'] for e in examples if e.fields['image'] and not e.fields['image'].is_file()]
  if missing:
    raise FileNotFoundError(f'{len(missing)} of {len(examples)} images are missing, first {missing[0]}')
  files = dict(prompts.files)
  if images:
    files['images'] = _fingerprint(e.fields['image'] for e in examples)
  return Data(examples, prompts.read, files, prompts.skipped, prompts.repaired)


def _fingerprint(images: Iterable[Path]) -> str:
  """One hash of all images, so that a run on other images does not reuse these verdicts."""
  whole = hashlib.sha256()
  for image in images:
    whole.update(f'{image.name} {sha256(image)}\n'.encode())
  return whole.hexdigest()


def _example(prompt: Prompt, k: int, image: Path | None) -> Example:
  groups = {
    'theme': prompt.theme,
    'sub-theme': prompt.sub_theme,
    'subject': prompt.subject,
    'sentence': prompt.structure,
  }
  return Example(f'{prompt.index}_{k}', {'prompt': prompt, 'image': image}, groups, str(prompt.index))


def _prompt(example: Example, *, template: str) -> list[dict]:
  if example.fields['image'] is None:
    raise ValueError('judging needs the images: --set images=<folder>')
  image = {'type': 'image', 'image': example.fields['image']}
  return user_message(image, judging.question(example.fields['prompt'], template))


def _parsed(example: Example, text: str) -> list[int] | None:
  try:
    return judging.read_scores(text, len(example.fields['prompt'].points))
  except ValueError:
    return None


def _score(example: Example, answer: Answer) -> Outcome:
  """Hits and totals of each sub-criterion and dimension, by position: a test point may occur twice."""
  prompt: Prompt = example.fields['prompt']
  bits = _parsed(example, answer.text)
  hits = Counter()
  totals = Counter()
  for i, point in enumerate(prompt.points):
    for name in {point.primary, point.en, ALL}:
      totals[name] += 1
      hits[name] += bits[i] if bits else 0
  scores = {name + AS_ZERO: (float(hits[name]), float(totals[name])) for name in totals}
  if bits:
    scores |= {name: (float(hits[name]), float(totals[name])) for name in totals}
  image = example.fields['image']
  detail = {
    'index': prompt.index,
    'prompt': prompt.text,
    'checkpoints': [p.en for p in prompt.points],
    'parsed': bits,
    'analysis': judging.read_analysis(answer.text),
    'image': image.name if image else None,
  }
  return Outcome(OK if bits else UNPARSED, str(bits) if bits else None, scores, detail)


def overall(items: Sequence[Item]) -> Mapping[str, Sequence[Column]]:
  """The plain mean of the ten primary accuracies; absent where a dimension has no judgement at all."""
  judged = {name for item in items for name, (_, total) in item.scores.items() if total}
  return {
    f'Overall{kind}': [Column(name + kind) for name in PRIMARIES]
    for kind in ('', AS_ZERO)
    if all(name + kind in judged for name in PRIMARIES)
  }


def counts(items: Sequence[Item]) -> dict:
  """correct, total and accuracy of each dimension, as the public code writes them, and what was left out."""
  hits = Counter()
  totals = Counter()
  unparsed = Counter()
  for item in items:
    for name, (num, den) in item.scores.items():
      hits[name] += num
      totals[name] += den
    if item.outcomes[0].detail['parsed'] is None:
      unparsed.update({point.primary for point in item.example.fields['prompt'].points})

  def table(names):
    return {
      name: {'correct': int(hits[name]), 'total': int(totals[name]), 'accuracy': round(hits[name] / totals[name], 4)}
      for name in names
      if totals[name]
    }

  empty = [name for name in PRIMARIES if not totals[name]]
  return {
    'primary_dimensions': table(PRIMARIES),
    'sub_dimensions': table(dict.fromkeys(point.en for point in TEST_POINTS)),
    'unparsed images by dimension': {name: unparsed[name] for name in PRIMARIES},
    **({'no Overall': f'no judgement at all in {", ".join(empty)}'} if empty else {}),
  }
