"""The serving bench: its timers measure a real server, and its processes get the places and sizes asked for."""

import json
import os

import pytest

from bench.perf.serving import timers, towers
from bench.perf.serving.options import ARMS, Timers, Towers


@pytest.mark.parametrize('kind, least', [('coupled', 0.008), ('decoupled', 0.004)])
def test_a_server_with_timers_is_no_faster_than_its_stages(kind, least):
  options = Timers(vision=0.004, language=0.004, requests=20, in_flight=4, load=0.5)
  found = timers.measure(options, kind)
  assert 0 < found.throughput < 1 / least and found.host > 0
  first_segment = options.language * timers.SEGMENT / timers.TOKENS
  assert options.vision + first_segment < found.median <= found.p99


def test_the_process_of_an_arm_gets_the_sizes_that_were_asked_for():
  options = Towers(requests=5, repeats=2, in_flight=3, tiles=2, tokens=6, places='accelerators', numbers=(2, 3))
  *_, role, name, sizes = towers.arguments('vision', 'decoupled', options)
  given = json.loads(sizes)
  assert (role, name) == ('vision', 'decoupled')
  assert Towers(**given | {'numbers': tuple(given['numbers'])}) == options


@pytest.mark.parametrize(
  'arm, role, listed', [('coupled_both', 'arm', '4,5'), ('coupled_one', 'arm', '5'), ('decoupled', 'vision', '4')]
)
def test_each_tower_sees_its_own_accelerators(monkeypatch, arm, role, listed):
  monkeypatch.setattr(os, 'environ', {})
  towers.place(Towers(places='accelerators', numbers=(4, 5)), ARMS[arm], role)
  assert os.environ['CUDA_VISIBLE_DEVICES'] == os.environ['TPU_VISIBLE_CHIPS'] == listed


@pytest.mark.parametrize(
  'options, says', [({'numbers': (1,)}, 'expected two'), ({'arms': ('fast',)}, "arms has 'fast'")]
)
def test_impossible_towers_are_refused(options, says):
  with pytest.raises(ValueError, match=says):
    Towers(**options)
