"""Subtitles: times as the formats write them, and text that must not end a cue."""

import json

from core.audio import WRITERS, Segment, Word

SEGMENTS = (
  Segment(0.0, 1.2345, ' Hello,\n\n there', tokens=(1, 2), words=(Word(' Hello,', 0.0, 0.5, 0.9),)),
  Segment(3_599.9996, 3_661.5, ' a --> b < c & d'),
)


def test_srt():
  first, second, _ = WRITERS['srt'](SEGMENTS).split('\n\n')
  assert first == '1\n00:00:00,000 --> 00:00:01,234\nHello,\nthere'
  assert second == '2\n01:00:00,000 --> 01:01:01,500\na -> b < c & d'


def test_vtt():
  text = WRITERS['vtt'](SEGMENTS)
  assert text.startswith('WEBVTT\n\n00:00.000 --> 00:01.234\nHello,\nthere\n\n')
  assert '01:00:00.000 --> 01:01:01.500\na -&gt; b'.replace('-&gt;', '->') + ' &lt; c &amp; d' in text


def test_txt_and_json():
  assert WRITERS['txt'](SEGMENTS) == 'Hello, there\na --> b < c & d\n'
  first = json.loads(WRITERS['json'](SEGMENTS))['segments'][0]
  assert first['words'][0] == {'text': ' Hello,', 'start': 0.0, 'end': 0.5, 'probability': 0.9}
