"""Answers: alone, together, in pieces, over several turns; and the program around them."""

import functools
import io
import pathlib
import runpy
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import internvl
from internvl import chat as answer
from internvl.conversation import _embed, generate, pieces
from tests.internvl.tiny import IMAGES, model, processor

PROGRAM = runpy.run_path(str(pathlib.Path(internvl.__file__).with_name('chat.py')), run_name='chat_program')
HI = [{'role': 'user', 'content': 'hi'}]
LOOK = [{'role': 'user', 'content': '<image>\nWhat is it?'}]
TWICE = [*LOOK, {'role': 'assistant', 'content': 'a digit'}, {'role': 'user', 'content': 'And <image>, then?'}]


@pytest.fixture(scope='module')
def talk():
  p = processor()
  config, params = model(p)
  return functools.partial(answer, params, config, p, max_new_tokens=24)


@pytest.mark.slow
@pytest.mark.parametrize('sampling', [{}, {'temperature': 1.0, 'top_p': 0.9, 'seed': [7, 8, 9]}])
def test_each_of_several_gets_what_it_gets_alone(talk, sampling):
  talks, images = [HI, TWICE, LOOK], [None, IMAGES[:2], IMAGES[2:3]]
  together = talk(talks, images=images, **sampling)
  for i in range(3):
    own = sampling | ({'seed': sampling['seed'][i]} if sampling else {})
    assert together[i] == talk(talks[i], images=images[i], **own)
  assert len(set(together)) == 3


@pytest.mark.slow
def test_pieces_join_to_the_whole(talk):
  sampling = {'temperature': 1.0, 'seed': 5}
  streamed = list(talk(LOOK, images=IMAGES[:1], stream=True, **sampling))
  assert len(streamed) > 2 and ''.join(streamed) == talk(LOOK, images=IMAGES[:1], **sampling)


def test_an_image_in_a_later_turn_is_seen(talk):
  one, other = (talk(TWICE, images=[IMAGES[0], image], temperature=1.0) for image in IMAGES[1:3])
  assert one != other


def test_lengths_and_tiles_in_one_bucket_compile_once(talk):
  talk(HI)
  before = _embed._cache_size()
  talk([{'role': 'user', 'content': 'hello'}], max_new_tokens=20)
  assert _embed._cache_size() == before


class Scripted:
  """Stands for a `core.engine.generate.Generation`: given tokens, some at a time."""

  def __init__(self, tokens):
    self.tokens, self.read = tokens, 1

  def rows(self):
    return [np.asarray(self.tokens[: self.read], np.int32)]

  def advance(self, until):
    self.read = until

  @property
  def finished(self):
    return self.read >= len(self.tokens)


@pytest.mark.parametrize(
  'template, raw',
  [
    ('internvl2_5', ' \n Grüße, 数字 7 \n<|im_end|>'),
    ('internvl2_5', 'cut in a 数'),
    (
      'internvl3_5_gpt_oss',
      '<|channel|>analysis<|message|>secret 5<|end|><|start|>assistant<|channel|>final<|message|>It is 7 <|return|>',
    ),
    ('internvl3_5_gpt_oss', '<|channel|>analysis<|message|>never done'),
  ],
)
def test_pieces_are_whole_characters_of_the_answer_alone(template, raw):
  p = processor(template)
  tokens = p.tokenizer.encode(raw, add_special_tokens=False)
  tokens = tokens[:-1] if raw.endswith('数') else tokens  # ends inside a character
  said = list(pieces(Scripted(tokens), p))
  assert ''.join(said) == p.answer(tokens)
  assert not any('secret' in s or '<|' in s for s in said)
  assert not any('\ufffd' in s for s in said[:-1])


@pytest.mark.slow
def test_bad_requests_are_refused(talk):
  p = processor()
  config, params = model(p, max_length=64)
  with pytest.raises(ValueError, match=r'conversation 1 has 1\d\d tokens .* context of the model is 64'):
    answer(params, config, p, [HI, [{'role': 'user', 'content': 'x' * 100}]], max_new_tokens=4)
  prompt = p(HI)
  full = generate(params, config, p, [prompt], max_new_tokens=400).advance()  # ends where the context does
  assert 0 < full.count[0] <= 64 - len(prompt.tokens)
  for why, bad in {
    'ends with the assistant': {'messages': TWICE[:2], 'images': IMAGES[:1]},
    '2 <image> marks, but 1': {'messages': TWICE, 'images': IMAGES[:1]},
    'one conversation': {'messages': [HI, HI], 'stream': True},
    '1 lists for 2': {'messages': [HI, LOOK], 'images': [IMAGES]},
    'images is a str': {'messages': [HI, LOOK], 'images': 'photo.jpg'},
    'max_new_tokens=0': {'messages': HI, 'max_new_tokens': 0},
    'top_p': {'messages': HI, 'top_p': 0.0},
  }.items():
    with pytest.raises(ValueError, match=why):
      talk(**bad)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('run') / 'model'
  p = processor()
  config, params = model(p)
  internvl.save(path, config, params)
  p.save(path)
  for i, image in enumerate(IMAGES):
    Image.fromarray(image).save(path.parent / f'{i}.png')
  return path.parent


def say(capsys, *flags) -> tuple[int, str, str]:
  status = PROGRAM['main'](['chat', *flags])
  wrote = capsys.readouterr()
  return status, wrote.out, wrote.err


@pytest.mark.slow
def test_the_program_answers_as_the_function(folder, capsys):
  config, params = internvl.load(folder / 'model', dtype='float32')
  want = answer(
    params,
    config,
    processor(),
    [{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': 'What?'}]}],
    images=IMAGES[:1],
    max_new_tokens=12,
    temperature=1.0,
    seed=3,
  )
  flags = [f'--image={folder}/0.png', '--prompt=What?', '--max_new_tokens=12', '--temperature=1', '--seed=3']
  for path in (folder, folder / 'model'):  # a workdir, and a checkpoint
    assert say(capsys, f'--model={path}', *flags) == (0, want + '\n', '')
  assert say(capsys, f'--model={folder}', '--int8', *flags)[0] == 0


def test_lines_of_standard_input_are_turns(folder, capsys, monkeypatch):
  seen = []
  monkeypatch.setattr(internvl, 'chat', lambda *a, images, **_: seen.append((a[3], len(images))) or iter(['yes']))
  monkeypatch.setattr('sys.stdin', io.StringIO(f'one\n\n/image {folder}/1.png\nis <image> two\n/new\nthree\n'))
  assert say(capsys, f'--model={folder}', f'--image={folder}/0.png', '--system=Be brief.')[:2] == (0, 'yes\n' * 3)
  roles = [[m['role'] for m in messages] for messages, _ in seen]
  assert roles == [['system', 'user'], ['system', 'user', 'assistant', 'user'], ['system', 'user']]
  assert [n for _, n in seen] == [1, 2, 0]


def test_errors_are_one_line_and_a_status(folder, capsys, tmp_path):
  (tmp_path / 'text.png').write_text('no image')
  Image.new('RGB', (20000, 10)).save(tmp_path / 'needle.png')
  (tmp_path / 'empty.ppm').write_bytes(b'P6 0 0 255\n')
  shutil.copytree(folder / 'model', tmp_path / 'bare')
  (tmp_path / 'bare' / 'config.json').unlink()
  (tmp_path / 'unfinished' / 'checkpoints').mkdir(parents=True)
  ask = f'--model={folder}', '--prompt=What?'
  for why, status, flags in [
    ('not a readable image', 1, [*ask, f'--image={tmp_path}/text.png']),
    ('aspect ratio', 1, [*ask, f'--image={tmp_path}/needle.png']),
    ('empty.ppm', 1, [*ask, f'--image={tmp_path}/empty.ppm']),
    ('no such image file', 1, [*ask, '--image=gone.png']),
    ('2 <image> marks, but 1', 1, [ask[0], '--prompt=<image> <image>', f'--image={folder}/0.png']),
    ('no such folder', 1, ['--model=/nowhere', ask[1]]),
    ('holds no checkpoint', 1, [f'--model={tmp_path}/bare', ask[1]]),
    ('has not finished', 1, [f'--model={tmp_path}/unfinished', ask[1]]),
    ('the limit is 1024', 1, [ask[0], '--prompt=' + 'x' * 2000]),
    ('imag', 2, [*ask, '--imag=a.png']),
    ('--model', 2, []),
    ('top_p', 2, [*ask, '--top_p=0']),
    ('max_new_tokens', 2, [*ask, '--max_new_tokens=0']),
    ('only flags', 2, [*ask, 'stray']),
    ('--system', 2, [*ask, '--thinking', '--system=x']),
  ]:
    got, out, err = say(capsys, *flags)
    assert (got, out) == (status, '') and err.startswith('error: ') and err.count('\n') == 1 and why in err, err


def test_the_name_is_the_function_also_after_its_command_line_is_imported(capsys):
  sys.modules.pop('internvl.chat', None)
  import internvl.chat

  assert internvl.chat is answer and sys.modules['internvl.chat'] is answer
  status, out, _ = say(capsys, '--help')
  assert status == 0 and '--max_new_tokens' in out


def test_flags_win_over_the_checkpoint_s_sampling(tmp_path):
  from core.files.store import Folder
  from internvl import terminal

  (tmp_path / 'generation_config.json').write_text('{"do_sample": true, "temperature": 0.6, "top_p": 0.9}')
  options = PROGRAM['Options'](model=str(tmp_path), top_p=0.5, max_new_tokens=3)
  chosen = terminal.sampling(options, Folder(str(tmp_path)))
  assert (chosen['temperature'], chosen['top_p'], chosen['top_k'], chosen['max_new_tokens']) == (0.6, 0.5, 50, 3)
  plain = terminal.sampling(PROGRAM['Options'](model='x'), Folder(str(tmp_path / 'none')))
  assert (plain['temperature'], plain['max_new_tokens']) == (0.0, 512)
