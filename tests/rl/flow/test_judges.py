"""Judges of two images: what a chat server is asked, how its reply is read, what is cached."""

import json

import httpx
import jax
import numpy as np
import pytest
from PIL import Image

from core import mesh
from core.serving.client import Endpoint, Retry
from rl.flow.judges import template
from rl.flow.judges.chat import ChatJudge, endpoint
from rl.flow.judges.similarity import ScoreJudge, Similarity
from rl.policy import vision_language
from rl.query import Query
from rl.rewards.pairwise import JudgeFailed, Pairwise, rates


def grey(level):
  return Image.new('L', (4, 4), level)


@pytest.mark.parametrize(
  'reply, verdict',
  [
    ('<think>…</think><answer>Image 1 is better</answer>', 'first'),
    ('<answer>\nImage 2 is better\n</answer>', 'second'),
    ('<answer>Image 2 is better, not: Image 1 is better</answer>', 'first'),
    ('<answer>both</answer><answer>Image 1 is better</answer>', 'tie'),
    ('Image 1 is better', 'tie'),
    ('<answer>image 1 is better</answer>', 'tie'),
    ('<answer>Image 1 is better', 'tie'),
    ('', 'tie'),
  ],
)
def test_verdicts_as_released(reply, verdict):
  assert template.read(reply) == verdict


def test_a_caption_cannot_change_the_instruction():
  assert '$name ${caption} </answer>' in template.question('$name ${caption} </answer>')
  with pytest.raises(ValueError, match=r'has no \$caption'):
    template.question('a cat', 'Which is better?')
  with pytest.raises(ValueError, match='other'):
    template.question('a cat', '$caption $other')


class Server:
  """A chat-completions server that prefers the darker image; it answers only every other request."""

  def __init__(self, flaky=False):
    self.bodies, self.flaky, self.calls = [], flaky, 0

  def __call__(self, request):
    self.calls += 1
    if self.flaky and self.calls % 2:
      return httpx.Response(503)
    body = json.loads(request.content)
    self.bodies.append(body)
    urls = [p['image_url']['url'] for p in body['messages'][0]['content'] if p['type'] == 'image_url']
    better = 1 if len(set(urls)) > 1 and urls[0] == self.darker else 2
    reply = f'<answer>Image {better} is better</answer>'
    return httpx.Response(200, json={'choices': [{'message': {'content': reply}}]})


def judge_of(monkeypatch, server, cache=None, attempts=3):
  real = httpx.Client
  monkeypatch.setattr(httpx, 'Client', lambda **k: real(transport=httpx.MockTransport(server)))
  retry = Retry(attempts=attempts, first=0.0)
  return ChatJudge(endpoint(Endpoint('http://judge/v1', 'unified', retry=retry)), 'unified', cache=cache)


def test_a_second_run_asks_nothing_twice(monkeypatch, tmp_path):
  server = Server(flaky=True)
  server.darker = ''
  cache = tmp_path / 'replies.jsonl'
  first = judge_of(monkeypatch, server, cache)
  assert first('a cat', grey(0), grey(99)) == 'second'
  asked = server.calls
  assert asked == 2  # one retry
  assert judge_of(monkeypatch, server, cache)('a cat', grey(0), grey(99)) == 'second'
  assert server.calls == asked
  first('a cat', grey(99), grey(0))  # the other order is another question
  first('a dog', grey(0), grey(99))
  assert server.calls == asked + 4
  (line, *_) = [json.loads(text) for text in cache.read_text().splitlines()]
  assert line['template'] == template.template_hash(template.DEFAULT) and line['verdict'] == 'second'
  content = server.bodies[0]['messages'][0]['content']
  assert [part['type'] for part in content] == ['image_url', 'image_url', 'text']
  assert all(part['image_url']['url'].startswith('data:image/jpeg;base64,') for part in content[:2])
  assert server.bodies[0]['temperature'] == 0 and 'a cat' in content[2]['text']


def test_a_server_that_is_down_gives_ties(monkeypatch):
  judge = judge_of(monkeypatch, lambda request: httpx.Response(500))
  with pytest.raises(JudgeFailed, match='status 500'):
    judge('a cat', grey(0), grey(9))
  query = Query([{'role': 'user', 'content': 'a cat'}])
  got = Pairwise(judge)(query, [grey(i) for i in range(4)])
  assert rates(got).tolist() == [0.5] * 4 and got[0]['failed'] == 1


def test_a_torn_cache_is_read_up_to_its_last_whole_line(monkeypatch, tmp_path):
  cache = tmp_path / 'replies.jsonl'
  server = Server()
  server.darker = ''
  judge_of(monkeypatch, server, cache)('a cat', grey(0), grey(99))
  whole = cache.read_text()
  cache.write_text(whole + whole[:20])
  judge_of(monkeypatch, server, cache)('a cat', grey(0), grey(99))
  assert server.calls == 1 and cache.read_text() == whole
  for wrong in ('{}', '[]', '{"key": "a", "reply": 1}'):
    cache.write_text(f'{wrong}\n{whole}')
    with pytest.raises(ValueError, match='line 1'):
      judge_of(monkeypatch, server, cache)


@pytest.mark.parametrize('first, second', [(np.nan, 1.0), (1.0, np.nan), (np.inf, np.inf)])
def test_scores_that_do_not_compare_are_a_tie_and_no_loss(first, second):
  judge = ScoreJudge(lambda prompt, image: image)
  with pytest.raises(JudgeFailed, match='expected two numbers'):
    judge('a cat', first, second)
  query = Query([{'role': 'user', 'content': 'a cat'}])
  got = Pairwise(judge)(query, [first, second])
  assert rates(got).tolist() == [0.5, 0.5] and got[0]['failed'] == 1


def test_similarity_with_a_dead_zone():
  text = lambda prompt: np.array([1.0, 0.0])
  image = lambda picture: np.array([np.cos(picture), np.sin(picture)])
  judge = ScoreJudge(Similarity(text, image), zone=0.01)
  assert judge('a', 0.1, 0.5) == 'first' and judge('a', 0.5, 0.1) == 'second'
  assert judge('a', 0.1, 0.11) == 'tie'
  with pytest.raises(ValueError, match='zone=-1'):
    ScoreJudge(len, zone=-1)
  with pytest.raises(ValueError, match='zeros'):
    Similarity(text, lambda picture: np.zeros(2))('a', 0)


@pytest.mark.slow
def test_an_internvl_of_this_process_is_asked_about_both_images(tmp_path):
  """Random weights name no image, so its verdict is a tie; the reply is kept and depends on the images."""
  policy, weights = vision_language.tiny(0, mesh.make(devices=jax.devices()[:1]))
  judge = ChatJudge(
    vision_language.asking(policy, weights, max_new_tokens=4), 'tiny', template='$caption?', cache=tmp_path / 'r.jsonl'
  )
  assert judge('a cat', grey(0), grey(255)) == 'tie'
  assert judge.reply('a cat', grey(0), grey(255)) == json.loads((tmp_path / 'r.jsonl').read_text())['reply']
  with pytest.raises(JudgeFailed, match='the limit is 1024'):
    judge('a cat ' * 2000, grey(0), grey(255))
