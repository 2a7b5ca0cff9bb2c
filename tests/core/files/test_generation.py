"""generation_config.json: what its publishers mean, in our terms."""

import json

import pytest

from core.files.generation import Generation, read
from core.files.generation import write as write_stops
from core.files.store import CheckpointError

STATED = {
  'nothing': ({}, Generation()),
  'not sampling': ({'do_sample': False, 'temperature': 0.7, 'top_p': 0.8}, Generation(top_p=0.8)),
  'sampling': ({'do_sample': True}, Generation(temperature=1.0, top_k=50)),
  'all of it': (
    {
      'do_sample': True,
      'temperature': 0.6,
      'top_k': 20,
      'top_p': 0.95,
      'min_p': 0.1,
      'repetition_penalty': 1.05,
      'max_new_tokens': 2048,
      'eos_token_id': [7, 9],
      'bos_token_id': 1,
    },
    Generation(0.6, 20, 0.95, 0.1, 1.05, 2048, (7, 9)),
  ),
  'one end': ({'eos_token_id': 3}, Generation(stops=(3,))),
}


def write(folder, h):
  (folder / 'generation_config.json').write_text(json.dumps(h))
  return folder


@pytest.mark.parametrize('case', STATED)
def test_what_a_file_states(case, tmp_path):
  h, want = STATED[case]
  assert read(write(tmp_path, h)) == want


def test_a_folder_without_the_file_is_greedy(tmp_path):
  assert read(tmp_path) == Generation()


@pytest.mark.parametrize('h', [{'top_p': '0.9'}, {'max_new_tokens': 1.5}, {'eos_token_id': ['x']}, {'top_k': True}])
def test_a_value_of_the_wrong_kind_is_named(h, tmp_path):
  ((key, _),) = h.items()
  with pytest.raises(CheckpointError, match=rf'generation_config\.json: {key}=.*expected a'):
    read(write(tmp_path, h))


def test_end_tokens_come_back(tmp_path):
  write_stops(tmp_path, ())
  assert not list(tmp_path.iterdir())
  write_stops(tmp_path, (7, 9))
  assert read(tmp_path).stops == (7, 9)


def test_what_is_not_done_is_said(tmp_path, caplog):
  with caplog.at_level('WARNING', logger='absl'):
    read(write(tmp_path, {'num_beams': 4, 'typical_p': 1.0}))
  assert "not done here: {'num_beams': 4}" in caplog.text and 'typical_p' not in caplog.text
