"""Scripts and prompts: what is read, what is refused and how, and the exact wire format."""

import json

import numpy as np
import pytest

from core.files.tokenizers import TextEncoder, byte_tokenizer
from vibevoice.config import CONFIGS
from vibevoice.inputs import prompt, script
from vibevoice.inputs.script import Line

TINY = CONFIGS['tiny']
SPECIAL = ('<|endoftext|>', '<|vision_start|>', '<|vision_end|>', '<|vision_pad|>', '<|image_pad|>')


def test_lines_are_read_as_published():
  text = '\ufeffSpeaker 1: It\u2019s me: Ann.  \n\n  SPEAKER 2 : Hi!\nspeaker 1:Bye\n'.lstrip('\ufeff')
  assert script.parse(text) == (Line(1, "It's me: Ann."), Line(2, 'Hi!'), Line(1, 'Bye'))
  entries = [{'speaker': 0, 'text': 'a\nb'}, {'speaker': '1', 'text': 'c'}]
  assert script.parse_json(json.dumps(entries)) == (Line(0, 'a b'), Line(1, 'c'))


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'no utterances'),
    (' \n\n', 'no utterances'),
    ('Speaker 1: Hi.\n\nand more', "line 3: 'and more'"),
    ('Speaker 1: Hi.\nSpeaker 2:  ', 'line 2: Speaker 2 has no text'),
    ('Speaker one: Hi.', "line 1: 'Speaker one: Hi.'"),
  ],
)
def test_bad_scripts(text, message):
  with pytest.raises(ValueError, match=message):
    script.parse(text)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{', 'not JSON'),
    ('{}', 'of type dict'),
    ('[{"speaker": 1}]', 'entry 1'),
    ('[{"speaker": 1, "text": "a"}, {"speaker": -1, "text": "b"}]', 'entry 2: speaker -1'),
    ('[{"speaker": 1, "text": " "}]', 'has no text'),
  ],
)
def test_bad_json(text, message):
  with pytest.raises(ValueError, match=message):
    script.parse_json(text)


def test_files_are_named_in_errors(tmp_path):
  path = tmp_path / 'show.txt'
  path.write_bytes(b'Speaker 1: \xff')
  with pytest.raises(ValueError, match=r'show\.txt'):
    script.load(path)


def speakers(*numbers):
  return [Line(n, 'text') for n in numbers]


def test_numbers_are_shifted_and_never_packed():
  ids = lambda lines: [line.speaker for line in script.numbered(lines)]
  assert ids(speakers(1, 2, 1)) == [0, 1, 0]
  assert ids(speakers(0, 2)) == [0, 2]
  assert ids(speakers(2, 4)) == [1, 3]


@pytest.mark.parametrize(
  ('numbers', 'voices', 'message'),
  [
    ((2, 4), 2, 'speakers 2, 4: voices are given in order to speakers 1, 2'),
    ((0, 2), 3, 'in order to speakers 0, 1'),
    ((1, 2, 3), 2, 'Speaker 3 has no voice; 2 given for 3'),
    ((0, 1, 2, 3, 4), 0, '5 speakers'),
    ((1, 5), 0, 'Speaker 5: expected numbers from 1 to 4'),
  ],
)
def test_speakers_that_would_get_the_wrong_voice(numbers, voices, message):
  with pytest.raises(ValueError, match=message):
    script.numbered(speakers(*numbers), voices)


def test_wire_format():
  """Decoded and read back, the prompt is the published text, and special tokens in a script are only characters."""
  tokenizer = byte_tokenizer(SPECIAL)
  lines = (Line(0, 'Hi <|vision_start|>'), Line(1, 'Yes'))
  got = prompt.build(lines, [2, 1], TextEncoder(tokenizer), TINY)
  assert tokenizer.decode(got.tokens) == (
    ' Transform the text provided by various speakers into speech output, utilizing the distinct voice of each '
    'respective speaker.\n Voice input:\n Speaker 0:<|vision_start|><|vision_pad|><|vision_pad|><|vision_end|>\n'
    ' Speaker 1:<|vision_start|><|vision_pad|><|vision_end|>\n Text input:\n Speaker 0: Hi <|vision_start|>\n'
    ' Speaker 1: Yes\n Speech output:\n<|vision_start|>'
  )
  assert (got.tokens == TINY.start).sum() == 3 and got.tokens[-1] == TINY.start
  np.testing.assert_array_equal(got.slots, got.tokens == TINY.slot)
  assert b'Voice input' not in bytes(
    int(t) for t in prompt.build(lines, [], TextEncoder(tokenizer), TINY).tokens if t < 256
  )
