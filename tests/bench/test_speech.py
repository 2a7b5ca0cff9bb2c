import json
import random

import jiwer
import numpy as np
import pytest

from bench import tasks
from bench.harness import runner
from bench.harness.task import Answer
from bench.report import summary
from bench.speech import speakers
from bench.speech.normalize import normaliser, strip_tags, unbearable
from bench.speech.tasks import cosine
from bench.speech.wer import Edits, aligned, character_edits, edits, word_edits
from tests.watchdog import processor_seconds

S = speakers.Segment


def test_totals_match_jiwer_and_ties_prefer_substitutions():
  rng = random.Random(0)
  for _ in range(300):
    a, b = ([rng.choice('abcd') for _ in range(rng.randrange(12))] for _ in range(2))
    ours, theirs = aligned(a, b), jiwer.process_words(' '.join(a), ' '.join(b))
    assert ours.total == theirs.substitutions + theirs.deletions + theirs.insertions == edits(a, b).total
    assert ours.insertions - ours.deletions == len(b) - len(a)
  assert aligned(['a', 'b'], ['b', 'a']) == Edits(2, 0, 0, 2)


def test_empty_sides_and_characters():
  assert word_edits('', 'a b') == Edits(0, 0, 2, 0)
  assert word_edits('a b', '') == Edits(0, 2, 0, 2)
  assert character_edits('a bc', 'abd') == Edits(1, 0, 0, 3)


def score(name, settings, data_path, answers):
  task = tasks.make(name, settings)
  data = task.load(str(data_path))
  items = runner.score(task, data.examples, {e.id: [Answer(answers[e.id])] for e in data.examples})
  return items, summary.summarise(task, items, resamples=200)


def test_the_rate_of_a_set_is_not_the_mean_of_its_utterances(tmp_path):
  rows = [{'id': 'a', 'text': 'one'}, {'id': 'b', 'text': 'the quick brown fox jumps over lazy dogs today'}]
  (tmp_path / 'r.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  _, found = score('asr', [], tmp_path / 'r.jsonl', {'a': 'three', 'b': rows[1]['text']})
  assert found['metrics']['wer']['value'] == pytest.approx(1 / 10)
  assert found['metrics']['mean of utterance wers']['value'] == pytest.approx(1 / 2)


def test_rates_above_one_are_not_clamped_and_hostile_transcripts_end(tmp_path):
  rows = [{'id': i, 'text': 'a'} for i in range(6)]
  (tmp_path / 'r.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  texts = ['b b b', '[' * 500_000, '9' * 5_000, '', 'x' * 2_000_000, '[{"Start": 0, "End": NaN}' + '{' * 1000]
  with processor_seconds(30):
    items, found = score('asr', [], tmp_path / 'r.jsonl', {str(i): t for i, t in enumerate(texts)})
  assert [i.outcomes[0].status for i in items] == ['ok', 'too_large', 'unsupported', 'no_answer', 'too_large', 'ok']
  assert found['metrics']['wer']['value'] > 1
  assert unbearable('(' * 60_000)


def test_tags_and_times_are_no_words():
  text = 'Speaker 1: hi\n[spk2]: there <|0.00|> [00:01.2 - 00:03.4] you'
  assert normaliser('whisper_english')(strip_tags(text)).split() == ['hi', 'there', 'you']
  with pytest.raises(ValueError, match='expected one of none'):
    normaliser('wisper')


def test_seed_tts_keeps_numbers_and_apostrophes():
  assert normaliser('seed_tts_en')("It's 20, not twenty!") == "it's 20 not twenty"
  assert normaliser('seed_tts_zh')('你好，世界。') == '你 好 世 界'


REFERENCE = [S(0, 2, 'A', 'hello there'), S(2, 4, 'B', 'good morning'), S(10, 12, 'A', 'bye now')]


def test_speakers_are_matched_and_left_over_ones_count():
  plain = lambda text: text
  swapped = [S(s.start, s.end, {'A': '1', 'B': '0'}[s.speaker], s.text) for s in REFERENCE]
  assert speakers.cpwer(REFERENCE, swapped, plain) == Edits(0, 0, 0, 6)
  assert speakers.tcpwer(REFERENCE, swapped, plain).total == 0
  assert speakers.cpwer(REFERENCE, REFERENCE[:1], plain).deletions == 4
  assert speakers.cpwer(REFERENCE, [*REFERENCE, S(5, 6, 'C', 'who')], plain).insertions == 1
  assert speakers.cpwer([], REFERENCE, plain) == Edits(0, 0, 6, 0)
  many = [S(i, i + 1, str(i), f'word{i}') for i in range(30)]
  shuffled = [S(s.start, s.end, f'x{s.speaker}', s.text) for s in reversed(many)]
  assert speakers.cpwer(many, shuffled, plain).total == 0


def test_times_constrain_words_and_never_help():
  plain = lambda text: text
  late = [S(s.start + 60, s.end + 60, s.speaker, s.text) for s in REFERENCE]
  assert speakers.cpwer(REFERENCE, late, plain).total == 0
  assert speakers.tcpwer(REFERENCE, late, plain) == Edits(0, 6, 6, 6)
  assert speakers.tcpwer(REFERENCE, late, plain, collar=100).total == 0
  rng = random.Random(1)
  for _ in range(30):
    make = lambda: [
      S(
        t := rng.random() * 20,
        t + 1 + rng.random(),
        rng.choice('AB'),
        ' '.join(rng.choice('abc') for _ in range(rng.randrange(1, 4))),
      )
      for _ in range(5)
    ]
    a, b = make(), make()
    assert speakers.tcpwer(a, b, plain, collar=1).total >= speakers.cpwer(a, b, plain).total


def test_diarization_by_hand():
  d = speakers.der([S(0, 10, 'A', ''), S(10, 20, 'B', '')], [S(0, 12, 'x', ''), S(12, 18, 'y', '')])
  assert (d.missed, d.false_alarm, d.confused, d.speech) == pytest.approx((2, 0, 2, 20))
  d = speakers.der([S(0, 10, 'A', ''), S(5, 10, 'B', '')], [S(0, 11, 'x', '')])
  assert (d.missed, d.false_alarm, d.confused, d.speech) == pytest.approx((5, 1, 0, 15))
  assert speakers.der([S(0, 10, 'A', ''), S(5, 10, 'B', '')], [S(0, 11, 'x', '')], overlap=False).missed == 0
  d = speakers.der([S(0, 10, 'A', '')], [S(0.2, 10.2, 'x', '')], collar=0.25)
  assert d.errors == 0 and d.speech == pytest.approx(9.5)


@pytest.mark.parametrize(
  ('text', 'count'),
  [
    ('[{"Start":0,"End":1.5,"Speaker":0,"Content":"a"},{"Start":2,"End":3,"Content":"[Silence]"}]', 2),
    ('```json\n[{"start": 0, "end": 1, "speaker": "x", "text": "a"}]\n```', 1),
    ('[{"Start":0,"End":1,"Speaker":0,"Content":"a"},{"Start":2,"En', 1),
    ('[noise] hello', None),
    ('hello [{"Start":0,"End":1,"Content":"a"}]', None),
    ('[{"Start":"0"}]', None),
    ('[' * 100_000, None),
    ('[{"Start":' * 50_000, None),
    ('', None),
  ],
)
def test_segments_of_a_transcript(text, count):
  found = speakers.read_segments(text)
  assert (found if found is None else len(found)) == count


def test_recognition_with_speakers(tmp_path):
  fields = ('start', 'end', 'speaker', 'text')
  row = {'id': 1, 'segments': [{f: getattr(s, f) for f in fields} for s in REFERENCE]}
  (tmp_path / 'r.jsonl').write_text(json.dumps(row))
  answer = json.dumps(
    [{'Start': s.start, 'End': s.end, 'Speaker': ord(s.speaker), 'Content': s.text} for s in REFERENCE]
  )
  items, found = score('asr', [], tmp_path / 'r.jsonl', {'1': answer})
  assert {name: found['metrics'][name]['value'] for name in ('wer', 'cpwer', 'tcpwer', 'der')} == {
    'wer': 0,
    'cpwer': 0,
    'tcpwer': 0,
    'der': 0,
  }
  items, found = score('asr', [], tmp_path / 'r.jsonl', {'1': 'hello there good morning bye now'})
  assert items[0].outcomes[0].status == 'no_segments' and found['metrics']['cpwer']['value'] == 1


def test_seed_tts_reports_the_mean_over_utterances(tmp_path):
  (tmp_path / 'meta.lst').write_text('a|p|p.wav|one two|t.wav\nb|p|p.wav|three four five six\nbad line\na|p|p|again\n')
  np.savez(tmp_path / 'e.npz', **{'a/speech': [1.0, 0], 'a/prompt': [1.0, 0], 'b/speech': [1.0, 1]})
  items, found = score(
    'tts',
    [f'embeddings={tmp_path}/e.npz', 'embedder=wavlm-1'],
    tmp_path / 'meta.lst',
    {'a': '1 two', 'b': 'three, four five six'},
  )
  assert found['metrics']['wer']['value'] == pytest.approx(0.25)
  assert found['metrics']['pooled wer']['value'] == pytest.approx(1 / 6)
  assert found['metrics']['similarity']['value'] == 1
  assert found['extras']['utterances above 50 %'] == 0
  assert [i.outcomes[0].status for i in items] == ['ok', 'no_embedding']
  with pytest.raises(FileNotFoundError, match='2 of 2 synthesised files'):
    tasks.make('tts', [f'audio={tmp_path}']).load(str(tmp_path / 'meta.lst'))
  with pytest.raises(ValueError, match='go together'):
    tasks.make('tts', ['embedder=x'])


def test_similarity_is_the_cosine_and_refuses_nothing():
  assert cosine([1, 0], [1, 1]) == pytest.approx(2**-0.5)
  for a, b in (([0, 0], [1, 1]), ([1], [1, 2]), ([np.nan], [1.0])):
    with pytest.raises(ValueError):
      cosine(a, b)
