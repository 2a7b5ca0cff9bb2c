"""Messages as newcomers and other APIs write them, and text that is no Unicode."""

import pytest

from core.conversations import messages as chat
from core.conversations.messages import Part

ASK = {'role': 'user', 'content': 'What is this?'}
ANSWER = [Part('image', 'a.png'), Part('text', '\n'), Part('text', 'What is this?')]


def asked(parts: list) -> list:
  return [{'role': 'user', 'content': [*parts, {'type': 'text', 'text': 'What is this?'}]}]


@pytest.mark.parametrize(
  'messages, images',
  [
    (ASK, ['a.png']),
    ([ASK], 'a.png'),
    (ASK, ('a.png',)),
    (asked([{'type': 'image', 'image': 'a.png'}]), None),
    (asked([{'type': 'image'}]), 'a.png'),
    (asked([{'type': 'image_url', 'image_url': {'url': 'a.png', 'detail': 'high'}}]), None),
    (asked([{'type': 'image_url', 'image_url': 'a.png'}]), None),
  ],
)
def test_one_image_in_every_spelling(messages, images):
  ((role, parts),) = chat.parse(messages, images)
  assert role == 'user'
  assert parts == ANSWER


def test_a_path_is_one_image_not_its_letters():
  with pytest.raises(ValueError, match='2 <image> marks, but 1 images were given'):
    chat.parse({'role': 'user', 'content': '<image> or <image>?'}, 'photo.jpg')


@pytest.mark.parametrize('content', ['a\ud800b', [{'type': 'text', 'text': 'a\udfff'}]])
def test_a_lone_surrogate_is_named(content):
  with pytest.raises(ValueError, match=r'message 1: the text has a lone surrogate U\+D[8F].. at character 1'):
    chat.parse([ASK, {'role': 'assistant', 'content': content}])


def test_a_bad_image_url_is_refused():
  with pytest.raises(ValueError, match='message 0: a part must be'):
    chat.parse(asked([{'type': 'image_url', 'image_url': {'href': 'a.png'}}]))
