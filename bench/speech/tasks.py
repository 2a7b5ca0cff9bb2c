"""Recognition and synthesis as tasks. The answer to be scored is a transcript in both."""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.harness.rows import RowError, load_examples, need, row_id, sha256
from bench.harness.task import (
  NO_ANSWER,
  OK,
  Answer,
  Data,
  Example,
  Item,
  Outcome,
  Problem,
  Sampling,
  Task,
  each,
  user_message,
)
from bench.speech import speakers
from bench.speech.normalize import normaliser, strip_tags, unbearable
from bench.speech.wer import character_edits, word_edits

TRANSCRIBE = 'Transcribe the speech in this recording.'
UNITS = {'word': word_edits, 'character': character_edits}
BAD = 0.5


def asr(
  *,
  normalise: str = 'whisper_english',
  unit: str = 'word',
  collar: float = speakers.COLLAR,
  der_collar: float = 0.25,
  overlap: bool = True,
) -> Task:
  """Recognition. normalise: text normaliser.

  unit: word or character. collar: of tcpWER. der_collar, overlap: of DER.
  """
  if unit not in UNITS:
    raise ValueError(f'unit is {unit!r}, expected one of {", ".join(UNITS)}')
  return Task(
    name='asr',
    primary='wer' if unit == 'word' else 'cer',
    template=TRANSCRIBE,
    load=_load_asr,
    prompt=_prompt,
    score=each(
      functools.partial(
        _score_asr, normalise=normaliser(normalise), unit=unit, collar=collar, der_collar=der_collar, overlap=overlap
      )
    ),
    sampling=Sampling(max_tokens=16_384),
    settings={'normaliser': normalise, 'unit': unit, 'collar': collar, 'der_collar': der_collar, 'overlap': overlap},
    group_metrics=('wer' if unit == 'word' else 'cer',),
  )


def _load_asr(path: str) -> Data:
  folder = Path(path) if Path(path).is_dir() else Path(path).parent
  return load_examples(path, functools.partial(_asr_example, folder=folder))


def _asr_example(where: str, row: Mapping, *, folder: Path) -> Example:
  segments = row.get('segments')
  if segments is not None:
    try:
      segments = [speakers.make_segment(value) for value in segments]
    except (TypeError, ValueError) as error:
      raise RowError(f'segments: {error}') from None
  text = need(row, 'text') if segments is None else ' '.join(s.text for s in segments)
  groups = {name: str(row[name]) for name in ('dataset', 'language') if row.get(name)}
  audio = row.get('audio')
  return Example(
    row_id(row, where),
    {'text': text, 'segments': segments, 'audio': str(folder / audio) if isinstance(audio, str) else None},
    groups,
  )


def _prompt(example: Example) -> list[dict]:
  audio = example.fields['audio']
  if audio is None or not Path(audio).is_file():
    raise FileNotFoundError(f'{example.id}: no audio file {audio}')
  return user_message({'type': 'audio', 'audio': audio}, TRANSCRIBE)


def _score_asr(example: Example, answer: Answer, *, normalise, unit, collar, der_collar, overlap) -> Outcome:
  reference = example.fields['segments']
  segments = speakers.read_segments(answer.text)
  said = answer.text
  if segments is not None:
    said = ' '.join(s.text for s in segments)
  text, status = _usable(said, normalise)
  if status != OK:
    segments = None
  plain = lambda t: normalise(strip_tags(t))
  counts = UNITS[unit](plain(example.fields['text']), plain(text))
  name = 'wer' if unit == 'word' else 'cer'
  scores = {name: (counts.total, counts.length)}
  for kind in ('substitutions', 'deletions', 'insertions'):
    scores[kind] = (getattr(counts, kind), counts.length)
  if counts.length:
    scores[f'mean of utterance {name}s'] = (counts.total / counts.length, 1.0)
  if reference is not None:
    scores |= _speaker_scores(reference, segments or [], plain, collar, der_collar, overlap)
    status = status if segments is not None or status != OK else 'no_segments'
  numbers = {name: tuple(map(float, pair)) for name, pair in scores.items()}
  return Outcome(status, plain(text)[:20_000], numbers)


def _usable(text: str, normalise) -> tuple[str, str]:
  """The transcript that is scored and its status; one that cannot be normalised counts as an empty one."""
  if not text.strip():
    return '', NO_ANSWER
  if unbearable(text):
    return '', 'too_large'
  try:
    normalise(text)
  except ValueError:  # Whisper's number reader gives up on runs of more than 4 300 digits
    return '', 'unsupported'
  return text, OK


def _speaker_scores(reference, hypothesis, plain, collar, der_collar, overlap) -> dict:
  cp = speakers.cpwer(reference, hypothesis, plain)
  tcp = speakers.tcpwer(reference, hypothesis, plain, collar=collar)
  time = speakers.der(reference, hypothesis, collar=der_collar, overlap=overlap)
  return {'cpwer': (cp.total, cp.length), 'tcpwer': (tcp.total, tcp.length), 'der': (time.errors, time.speech)}


def tts(*, language: str = 'en', audio: str = '', embeddings: str = '', embedder: str = '') -> Task:
  """Synthesis, the Seed-TTS protocol: transcripts of the synthesised files. language: en or zh.

  audio: folder of {name}.wav to be transcribed. embeddings: .npz with arrays {name}/speech and {name}/prompt,
  whose cosine is the similarity; embedder: its name and version, without which similarities compare with
  nothing.
  """
  if language not in ('en', 'zh'):
    raise ValueError(f'language is {language!r}, expected en or zh')
  if bool(embeddings) != bool(embedder):
    raise ValueError('embeddings and embedder go together')
  vectors = _vectors(embeddings) if embeddings else None
  return Task(
    name='tts',
    primary='wer',
    template=TRANSCRIBE,
    load=functools.partial(_load_tts, audio=audio),
    prompt=_prompt,
    score=each(functools.partial(_score_tts, normalise=normaliser(f'seed_tts_{language}'), vectors=vectors)),
    sampling=Sampling(max_tokens=2048),
    settings={
      'normaliser': f'seed_tts_{language}',
      'embedder': embedder,
      'embeddings': sha256(Path(embeddings)) if embeddings else '',
    },
    extras=_bad_utterances,
  )


def _load_tts(path: str, *, audio: str) -> Data:
  """A list of lines: name | prompt text | prompt audio | text to speak | optional true audio."""
  raw = Path(path).read_bytes()
  lines = [line for line in raw.decode('utf-8-sig', 'replace').splitlines() if line.strip()]
  examples: dict[str, Example] = {}
  skipped = []
  for number, line in enumerate(lines, 1):
    parts = line.split('|')
    name = Path(parts[0].strip()).stem
    if len(parts) not in (4, 5) or not name or not parts[3].strip():
      skipped.append(Problem(f'line {number}', 'expected name|prompt text|prompt audio|text'))
    elif name in examples:
      skipped.append(Problem(f'line {number}', 'duplicate_id'))
    else:
      file = None
      if audio:
        file = str(Path(audio) / f'{name}.wav')
      examples[name] = Example(name, {'text': parts[3].strip(), 'audio': file})
  if audio:
    missing = [e.fields['audio'] for e in examples.values() if not Path(e.fields['audio']).is_file()]
    if missing:
      raise FileNotFoundError(f'{len(missing)} of {len(examples)} synthesised files are missing, first {missing[0]}')
  return Data(tuple(examples.values()), len(lines), {Path(path).name: sha256(Path(path))}, tuple(skipped))


def _vectors(path: str) -> Mapping:
  import numpy as np

  with np.load(path, allow_pickle=False) as stored:
    return {name: stored[name].astype(float).ravel() for name in stored.files}


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
  """Cosine of two speaker embeddings. Raises ValueError for different sizes or an embedding of nothing."""
  if len(a) != len(b):
    raise ValueError(f'embeddings of {len(a)} and {len(b)} numbers')
  of_a = sum(x * x for x in a)
  of_b = sum(x * x for x in b)
  norm = math.sqrt(of_a * of_b)
  if not norm or not math.isfinite(norm):
    raise ValueError('an embedding is zero or not finite')
  return sum(x * y for x, y in zip(a, b)) / norm


def _score_tts(example: Example, answer: Answer, *, normalise, vectors) -> Outcome:
  text, status = _usable(answer.text, normalise)
  counts = word_edits(normalise(example.fields['text']), normalise(text))
  rate = counts.total / counts.length if counts.length else float(counts.total > 0)
  scores = {
    'wer': (rate, 1.0),
    'pooled wer': (float(counts.total), float(counts.length)),
    'above 50 %': (float(rate > BAD), 1.0),
  }
  if rate <= BAD:
    scores['wer of the rest'] = (rate, 1.0)
  if vectors is not None:
    pair = [vectors.get(f'{example.id}/{kind}') for kind in ('speech', 'prompt')]
    if any(vector is None for vector in pair):
      status = 'no_embedding'
    else:
      scores['similarity'] = (cosine(*pair), 1.0)
  return Outcome(status, normalise(text)[:20_000], scores)


def _bad_utterances(items: Sequence[Item]) -> dict:
  """The number of utterances above 50 %, and the spread of the similarities."""
  similar = [item.scores['similarity'][0] for item in items if 'similarity' in item.scores]
  spread = {}
  if similar:
    spread = {'variance of similarity': statistics.pvariance(similar)}
  return {'utterances above 50 %': sum(item.scores['above 50 %'][0] > 0 for item in items), **spread}
