"""Servers that fail in every way: attempts are bounded, finished work is kept, other wordings are refused."""

import json
import sys
import threading
import types
from pathlib import Path

import pytest

from bench.harness import model as models
from bench.harness.judge import FAILED, MISSING, OK, Judge, Template
from bench.harness.task import Sampling
from bench.search import qa
from core.serving import client as endpoints
from tests.bench.chat_server import completion, question, serve
from tests.watchdog import ends

FIELDS = {'question': 'Who?', 'accepted': 'Ann', 'prediction': 'Anne'}
YES = completion('{"rationale": "same", "judgement": "correct"}')
BAD = {
  '500': lambda n: (500, b'{}'),
  'junk': lambda n: (200, b'<html>\xff\x00 not json'),
  'deep': lambda n: (200, b'[' * 200_000),
  'empty': lambda n: (200, b''),
  '10 MB': lambda n: completion('x' * 10_000_000),
  'no reply': lambda n: None,
  'no choices': lambda n: (200, b'{"choices": []}'),
  'wrong kind': lambda n: (200, b'{"choices": [{"message": {"content": 5}}]}'),
}


def endpoint(url, **kwargs):
  retry = endpoints.Retry(attempts=3, first=0.01, longest=0.02)
  return models.Endpoint(url, **{'timeout': 5.0, 'retry': retry, **kwargs})


@pytest.mark.parametrize('kind', BAD)
def test_a_bad_server_is_asked_three_times_and_no_more(kind):
  with serve(lambda n, body: BAD[kind](n)) as (url, requests):
    with pytest.raises(endpoints.RequestFailed, match='3 attempts'):
      endpoint(url)([{'role': 'user', 'content': 'hi'}], Sampling(), 0)
    assert len(requests) == 3


def test_a_refused_request_is_not_repeated():
  with serve(lambda n, body: (401, b'who are you')) as (url, requests):
    with pytest.raises(endpoints.RequestFailed, match='401: who are you'):
      endpoint(url)([{'role': 'user', 'content': 'hi'}], Sampling(), 0)
    assert len(requests) == 1


def test_a_server_that_never_answers_is_given_up_in_time():
  stop = threading.Event()
  with serve(lambda n, body: stop.wait(600) and None) as (url, _):
    try:
      with ends(), pytest.raises(endpoints.RequestFailed):
        endpoint(url, timeout=0.3, name='m')([{'role': 'user', 'content': 'hi'}], Sampling(), 0)
    finally:
      stop.set()


def test_pauses_grow_up_to_a_bound():
  pauses = []
  with serve(lambda n, body: (503, b'')) as (url, _):
    retry = endpoints.Retry(attempts=6, first=1, longest=5)
    client = models.Endpoint(url, 'm', retry=retry, sleep=pauses.append)
    with pytest.raises(endpoints.RequestFailed):
      client([{'role': 'user', 'content': 'hi'}], Sampling(), 0)
  assert pauses == [1, 2, 4, 5, 5]


def test_what_is_sent_and_read(tmp_path):
  from PIL import Image

  Image.new('RGB', (2, 2)).save(tmp_path / 'a.png')
  with serve(lambda n, body: completion('an answer \ud83d', 'length')) as (url, requests):
    client = endpoint(url, key='secret')
    content = [{'type': 'image', 'image': tmp_path / 'a.png'}, {'type': 'text', 'text': 'what?'}]
    answer = client([{'role': 'user', 'content': content}], Sampling(temperature=0.6, top_k=20), 7)
  assert (answer.text, answer.finish) == ('an answer ?', 'length')
  sent = requests[0]
  assert (sent['model'], sent['seed'], sent['temperature'], sent['top_k']) == ('fake', 7, 0.6, 20)
  assert sent['messages'][0]['content'][0]['image_url']['url'].startswith('data:image/png;base64,')


def test_models_that_are_neither_url_nor_folder_are_refused(tmp_path):
  with pytest.raises(ValueError, match='neither a URL'):
    models.open_model(str(tmp_path / 'nothing'))
  (tmp_path / 'config.json').write_text('{"model_type": "bert"}')
  with pytest.raises(ValueError, match="model_type is 'bert'"):
    models.open_model(str(tmp_path))


def judge(model, cache: Path, template=qa.JUDGE, **kwargs):
  return Judge(model, template, qa.read_judgement, cache, **kwargs)


@pytest.mark.parametrize('kind', BAD)
def test_a_judge_that_fails_is_reported_and_not_remembered(kind, tmp_path):
  with serve(lambda n, body: BAD[kind](n)) as (url, requests):
    verdict = judge(endpoint(url), tmp_path / 'cache.jsonl').ask(FIELDS)
    assert (verdict.value, verdict.status) == (None, FAILED)
    assert len(requests) == 3
  with serve(lambda n, body: YES) as (url, _):
    assert judge(endpoint(url), tmp_path / 'cache.jsonl').ask(FIELDS).value is True


@pytest.mark.parametrize(
  'text', ['correct', '{"judgement": "maybe"}', '{"judgement": NaN}', '{"judgement": true}', '{', '}{', '[]', '', '\0']
)
def test_a_judge_that_writes_nonsense_is_asked_five_times(text, tmp_path):
  with serve(lambda n, body: completion(text)) as (url, requests):
    assert judge(endpoint(url), tmp_path / 'cache.jsonl').ask(FIELDS).status == FAILED
    assert len(requests) == 5


def test_finished_verdicts_are_never_asked_again_and_readable_offline(tmp_path):
  cache = tmp_path / 'cache.jsonl'
  questions = [{**FIELDS, 'prediction': str(i % 4)} for i in range(8)]
  failing = lambda n, body: (500, b'') if 'judge: 3' in question(body) else YES
  with serve(failing) as (url, requests):
    verdicts = judge(endpoint(url), cache).ask_all(questions)
    assert [v.status for v in verdicts] == [OK, OK, OK, FAILED] * 2
    assert len(requests) == 3 + 3  # three verdicts, and three attempts at the one that fails
  cache.write_bytes(cache.read_bytes() + b'{"key": "cut')
  with serve(lambda n, body: YES) as (url, requests):
    assert [v.status for v in judge(endpoint(url), cache).ask_all(questions)] == [OK] * 8
    assert len(requests) == 1
  offline = judge(None, cache)
  assert offline.name == 'fake'
  assert [v.value for v in offline.ask_all(questions)] == [True] * 8
  assert offline.ask({**FIELDS, 'prediction': 'new'}).status == MISSING


def test_a_changed_template_or_judge_is_refused(tmp_path):
  cache = tmp_path / 'cache.jsonl'
  with serve(lambda n, body: YES) as (url, _):
    judge(endpoint(url), cache).ask(FIELDS)
    before = cache.read_bytes()
    with pytest.raises(ValueError, match='template='):
      judge(endpoint(url), cache, Template(qa.JUDGE.text + ' '))
    with pytest.raises(ValueError, match="judge='fake', this run has 'other'"):
      judge(endpoint(url, name='other'), cache)
  assert cache.read_bytes() == before
  with pytest.raises(FileNotFoundError, match='no judgements'):
    judge(None, tmp_path / 'none.jsonl')


def test_fields_are_only_ever_text(tmp_path):
  template = Template('$question / ${prediction} costs $$1')
  filled = template.fill({'question': '$prediction {0.__class__} %s', 'prediction': '\ud800'})
  assert filled == '$prediction {0.__class__} %s / ? costs $1'
  with pytest.raises(ValueError, match=r'the fields are question'):
    Template('$answer').fill({'question': ''})
  json.dumps(filled)


def test_a_local_folder_is_loaded_once_and_text_stays_text(tmp_path, monkeypatch):
  calls = []

  class Processor:
    @staticmethod
    def load(path):
      return 'processor'

  def chat(params, config, processor, messages, **kwargs):
    calls.append((params, config, processor, messages, kwargs))
    return 'yes'

  fake = types.SimpleNamespace(load=lambda path: ('config', 'params'), Processor=Processor, chat=chat)
  monkeypatch.setitem(sys.modules, 'internvl', fake)
  (tmp_path / 'config.json').write_text('{"model_type": "internvl_chat"}')
  local = models.open_model(str(tmp_path))
  sampling = Sampling(temperature=0.6, top_p=0.95, max_tokens=9)
  assert local([{'role': 'user', 'content': 'what does <image> mean?'}], sampling, 5).text == 'yes'
  parts = [{'type': 'text', 'text': 'what does <image> mean?'}]
  assert calls == [
    (
      'params',
      'config',
      'processor',
      [{'role': 'user', 'content': parts}],
      {'max_new_tokens': 9, 'temperature': 0.6, 'seed': 5, 'stream': False},
    )
  ]
  assert local.settings(sampling)['top_p'] == 1.0  # what it does, not what was asked for
