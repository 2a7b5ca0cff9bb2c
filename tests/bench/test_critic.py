"""A critic gives every answer the reward that best-of-N ranks it by."""

import dataclasses
import json
import math

import jax
import pytest

import internvl
from bench import maths
from bench.harness import runner
from bench.harness.critic import Critic, question
from internvl.inputs.processor_config import ProcessorConfig
from internvl.training.export import export


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  tiny = internvl.CONFIGS['tiny']
  processor = internvl.Processor.over_bytes(
    ProcessorConfig(
      image_size=16, tokens_per_tile=4, max_tiles=2, thumbnail=False, template='internvl_hf', max_length=1024
    )
  )
  config = dataclasses.replace(
    tiny, image_token=processor.image_id, language=dataclasses.replace(tiny.language, vocab=len(processor.tokenizer))
  )
  path = tmp_path_factory.mktemp('critic') / 'prm'
  export(path, config, internvl.init(jax.random.key(0), config), processor)
  return str(path)


def test_best_of_n_is_reported_with_a_critic(folder, tmp_path):
  row = {'id': 'p', 'problem': 'What is <image> 1 + 1?', 'answer': '2'}
  (tmp_path / 'data.jsonl').write_text(json.dumps(row) + '\n')
  texts = ['so\n\n\\boxed{2}', 'no \\boxed{3}', 'so\n\n\\boxed{2}']
  samples = [{'text': t} for t in texts] + [{'text': '', 'finish': 'failed'}, {'text': texts[1], 'reward': 5.0}]
  (tmp_path / 'answers.jsonl').write_text(json.dumps({'id': 'p', 'samples': samples}) + '\n')
  task = maths.aime()
  data = task.load(str(tmp_path / 'data.jsonl'))
  report = runner.run(
    task, data, str(tmp_path / 'out'), answers=str(tmp_path / 'answers.jsonl'), resamples=100, critic=Critic(folder)
  )
  assert report['critic'] == 'prm' and report['metrics']['best@5']['value'] == 0.0  # the file's own reward wins
  rewards = [s['reward'] for s in json.loads((tmp_path / 'out/results.jsonl').read_text())['samples']]
  assert rewards[0] == rewards[2] != rewards[1] and rewards[3:] == [0.0, 5.0]
  assert all(0 < r < 1 and math.isfinite(r) for r in rewards[:3])


def test_the_question_is_the_users_words_and_images():
  talk = [
    {'role': 'system', 'content': 'Be brief.'},
    {'role': 'user', 'content': [{'type': 'image', 'image': 'a.png'}, {'type': 'text', 'text': 'Which <image>?'}]},
  ]
  assert question(talk) == ('<image>\nWhich < image>?', ['a.png'])
  with pytest.raises(ValueError, match="type 'audio'"):
    question([{'role': 'user', 'content': [{'type': 'audio', 'audio': 'x.wav'}]}])
