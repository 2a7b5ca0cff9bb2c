"""The one call and the program: from a folder, a script and recordings to a wav file; and what they refuse."""

import dataclasses
import io
import itertools
import struct
import sys
import types

import numpy as np
import pytest
import soundfile

import vibevoice
from core.files.store import CheckpointError
from core.files.tokenizers import byte_tokenizer
from tests.core.files.torch_archives import Call, Global, Storage, archive, tensor
from tests.vibevoice import tiny
from vibevoice import realtime, terminal
from vibevoice import synthesize as synthesize_function
from vibevoice.config import CONFIGS
from vibevoice.inputs import script as scripts
from vibevoice.inputs import voices
from vibevoice.serving import sound

# A context that the byte-level prompt nearly fills: random weights never end their speech.
SHORT = dataclasses.replace(tiny.CONFIG, language=dataclasses.replace(tiny.CONFIG.language, max_length=256))
SCRIPT = 'Speaker 1: Hi.\n'


def main(*argv):
  import runpy
  import sys

  before = sys.argv
  sys.argv = ['vibevoice.synthesize', *map(str, argv)]
  try:
    with pytest.raises(SystemExit) as ended:
      runpy.run_module('vibevoice.synthesize', run_name='__main__', alter_sys=True)
  finally:
    sys.argv = before
  return ended.value.code


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('tts')
  vibevoice.save(path, SHORT, tiny.params(), layout='transformers')
  tiny.processor().tokenizer.save_pretrained(path)
  return path


@pytest.fixture
def recording(tmp_path):
  """Half a second of stereo noise at 44.1 kHz."""
  path = tmp_path / 'ann.wav'
  soundfile.write(path, np.stack([tiny.clip(2000), tiny.clip(2000, 1)], 1), 44_100)
  return path


def test_the_function_keeps_its_name():
  assert vibevoice.synthesize is synthesize_function and callable(vibevoice.synthesize)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:the speech is cut')
def test_streamed_frames_are_the_whole_speech():
  processor = vibevoice.Processor(tiny.processor().tokenizer, SHORT)
  speak = lambda **more: vibevoice.synthesize(tiny.params(), SHORT, processor, SCRIPT, steps=2, **more)
  whole = speak(seed=1)
  frames = list(speak(seed=1, stream=True))
  assert whole.dtype == np.float32 and len(whole) == len(frames) * tiny.HOP > 0
  np.testing.assert_allclose(np.concatenate(frames), whole, atol=1e-3)
  assert np.abs(speak(seed=2)[: len(whole)] - whole[: len(speak(seed=2))]).max() > 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_the_program_writes_a_wav_file(folder, recording, tmp_path, capsys):
  script, out = tmp_path / 'show.txt', tmp_path / 'show.wav'
  script.write_text('Speaker 1: A')
  voice = f'--voices={recording}'
  assert main(f'--model={folder}', f'--script={script}', voice, f'--out={out}', '--steps=1') == 0
  wav, rate = soundfile.read(out)
  assert rate == 24_000 and len(wav) % tiny.HOP == 0 and np.abs(wav).max() > 0
  assert 'frames' in capsys.readouterr().err


def test_the_program_refuses_before_it_loads_weights(folder, recording, tmp_path, capsys):
  script, out = tmp_path / 'show.txt', tmp_path / 'show.wav'
  script.write_text('Speaker 1: A\nSpeaker 2: B\n')
  weights = folder / 'model.safetensors'
  hidden = weights.rename(folder / 'away')
  common = (f'--model={folder}', f'--script={script}', f'--out={out}')
  try:
    assert main(*common, f'--voices={recording}') == 1
    assert 'Speaker 2 has no voice' in capsys.readouterr().err
    script.write_text('Speaker 1: ' + 'long ' * 60)
    assert main(*common) == 1
    written = script.read_text()
    tokens = len(tiny.processor()(scripts.parse(written)).tokens)
    assert f'make {tokens} tokens: {tokens + 1 - 256} too many for the context of 256' in capsys.readouterr().err
    assert main(f'--model={folder}', f'--script={script}', '--out=speech.mp3') == 2
    assert main(f'--script={script}', f'--out={out}') == 2
  finally:
    hidden.rename(weights)
  assert not out.exists()


def test_models_of_another_kind(tmp_path):
  config = CONFIGS['tiny-realtime']
  vibevoice.save(tmp_path, config, tiny.draw(realtime.spec(config)))
  tiny.processor().tokenizer.save_pretrained(tmp_path)
  with pytest.raises(CheckpointError, match='Realtime'):
    vibevoice.Processor.load(tmp_path)
  with pytest.raises(ValueError, match='one voice, a preset'):
    vibevoice.synthesize(None, config, None, 'text', ['ann.wav'])


@pytest.mark.parametrize(
  ('samples', 'message'),
  [
    (np.zeros(24_000, np.float32), 'silence'),
    (np.full(24_000, np.nan, np.float32), 'NaN'),
    (np.ones((24_000, 2), np.float32), r'shape \(24000, 2\)'),
    (np.ones(24_000, np.int16), 'int16'),
    (np.ones(1, np.float32), '1 samples'),
    (np.zeros(0, np.float32), '0 samples'),
    (np.broadcast_to(np.float32(1), 3 * 3600 * 24_000), '180 minutes'),
  ],
)
def test_voices_that_are_refused(samples, message):
  with pytest.raises(ValueError, match=f'voice 2: .*{message}'):
    voices.prepare(samples, tiny.CONFIG, name='voice 2')


def test_recordings_that_are_refused(tmp_path):
  path = tmp_path / 'phone.wav'
  soundfile.write(path, tiny.clip(8000), 8000)
  with pytest.raises(ValueError, match=r'phone\.wav: 8000 Hz'):
    voices.prepare(path, tiny.CONFIG)
  path.write_bytes(b'no recording at all')
  with pytest.raises(ValueError, match=r'phone\.wav'):
    voices.prepare(path, tiny.CONFIG)
  with pytest.raises(OSError, match=r'gone\.wav'):
    voices.prepare(tmp_path / 'gone.wav', tiny.CONFIG)


def test_files_are_refused_by_their_samples_and_a_long_one_by_its_header(tmp_path):
  """The long one is mostly a hole in the file: reading it would take minutes and gigabytes."""
  path = tmp_path / 'talk.wav'
  for samples, message in ((np.full(24_000, np.nan, np.float32), 'NaN'), (np.zeros(1, np.float32), '1 samples')):
    soundfile.write(path, samples, 24_000, subtype='FLOAT')
    with pytest.raises(ValueError, match=rf'talk\.wav: .*{message}'):
      voices.prepare(path, tiny.CONFIG)
  count = 3 * 3600 * 24_000
  header = bytearray(sound.wav_header(24_000))
  header[4:8], header[40:44] = struct.pack('<I', 36 + 2 * count), struct.pack('<I', 2 * count)
  with path.open('wb') as file:
    file.write(header)
    file.truncate(44 + 2 * count)
  with pytest.raises(ValueError, match=r'talk\.wav: 180 minutes; expected a voice prompt of at most 10'):
    voices.prepare(path, tiny.CONFIG)


def test_recordings_become_mono_of_one_loudness(recording):
  clip = voices.prepare(recording, tiny.CONFIG)
  assert clip.dtype == np.float32 and abs(len(clip) - 2000 * 24_000 / 44_100) <= 2
  np.testing.assert_allclose(np.sqrt(np.mean(clip**2)), 10 ** (-25 / 20), rtol=1e-3)


def test_progress_counts_from_the_first_frame():
  times = iter([0.0, 5.0, 5.2, 15.4, 15.4])
  out = io.StringIO()
  made = list(terminal.progress('abc', seconds=0.1, expected=23, out=out, clock=lambda: next(times)))
  assert made == ['a', 'b', 'c']
  first, last, total = out.getvalue().splitlines()
  assert first == '1 frames, 0:00 of speech'
  assert last == '3 frames, 0:00 of speech, 0.2 frames/s, real-time factor 52.00, about 1:44 left'
  assert total.endswith('real-time factor 52.00; first frame after 5.0 s')


REALTIME = CONFIGS['tiny-realtime']


@pytest.fixture(scope='module')
def realtime_folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('realtime')
  drawn = tiny.draw(realtime.spec(REALTIME))
  stop = drawn.stop.replace(out=drawn.stop.out * 0, out_bias=np.full(1, -3.0, np.float32))
  lower, upper = (dataclasses.replace(stack, max_length=128) for stack in (REALTIME.lower, REALTIME.upper))
  short = dataclasses.replace(REALTIME, lower=lower, upper=upper)
  vibevoice.save(path, short, drawn.replace(stop=stop))
  byte_tokenizer(['<|image_pad|>' if i == REALTIME.negative else f'<|{i}|>' for i in range(256, 264)]).save_pretrained(
    path
  )
  return path


@pytest.fixture(scope='module')
def preset(tmp_path_factory):
  """A published file of a voice of two positions."""
  storages = {}

  def stored(shape, seed):
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    key = str(len(storages))
    storages[key] = values.tobytes()
    strides = [size // 4 for size in values.strides]
    return tensor(Storage('FloatStorage', key, values.size), 0, shape, tuple(strides))

  def stream(stack, seed):
    shape = (1, stack.kv_heads, 2, stack.head_dim)
    caches = {name: [stored(shape, seed + i) for i in range(stack.depth)] for name in ('key_cache', 'value_cache')}
    return {'last_hidden_state': stored((1, 2, stack.width), seed), 'past_key_values': caches}

  stacks = {'lm': 'lower', 'tts_lm': 'upper', 'neg_lm': 'lower', 'neg_tts_lm': 'upper'}
  tree = {name: stream(getattr(REALTIME, stack), seed) for seed, (name, stack) in enumerate(stacks.items())}
  return archive(tmp_path_factory.mktemp('voice') / 'ann.pt', tree, storages)


class Arriving:
  """Standard input whose later pieces arrive only after speech was heard."""

  def __init__(self, out):
    self.out, self.pieces, self.heard = out, [b'This is a text th', b'at arrives. ', b'The end'], []

  def read1(self, size):
    self.heard.append(self.out.tell())
    return self.pieces.pop(0) if self.pieces else b''


@pytest.mark.slow
def test_a_realtime_model_speaks_while_text_arrives(realtime_folder, preset, tmp_path, monkeypatch):
  out = io.BytesIO()
  typed = Arriving(out)
  monkeypatch.setattr(sys, 'stdin', types.SimpleNamespace(buffer=typed))
  monkeypatch.setattr(sys, 'stdout', types.SimpleNamespace(buffer=out, flush=lambda: None))
  common = (f'--model={realtime_folder}', f'--voices={preset}', '--steps=1')
  assert main(*common, '--script=-', '--out=-') == 0
  assert typed.heard[0] == 0 and typed.heard[-1] > 0 and sorted(typed.heard) == typed.heard
  text, file = tmp_path / 'text.txt', tmp_path / 'text.wav'
  text.write_text('This is a text that arrives. The end')
  assert main(*common, f'--script={text}', f'--out={file}') == 0
  wav, _ = soundfile.read(file, dtype='float32')
  assert len(wav) % tiny.HOP == 0 and len(out.getvalue()) == 2 * len(wav) > 0
  np.testing.assert_allclose(np.frombuffer(out.getvalue(), '<i2') / 32767, np.clip(wav, -1, 1), atol=1e-3)


def test_a_realtime_model_refuses_before_it_loads_weights(realtime_folder, preset, tmp_path, capsys):
  text, code = tmp_path / 'text.txt', tmp_path / 'code.pt'
  text.write_text('Hello.')
  marker = tmp_path / 'ran'
  archive(code, Call(Global('os', 'system'), f'touch {marker}'))
  common = (f'--model={realtime_folder}', f'--script={text}', f'--out={tmp_path}/a.wav')
  hidden = (realtime_folder / 'model.safetensors').rename(realtime_folder / 'away')
  try:
    for flags, message in (
      ((), '0 given; a Realtime model speaks in one voice, a preset'),
      ((f'--voices={preset}', '--plan'), 'only scripts are planned'),
      ((f'--voices={code}',), 'os.system'),
    ):
      assert main(*common, *flags) == 1
      assert message in capsys.readouterr().err
    text.write_text(' \n')
    assert main(*common, f'--voices={preset}') == 1
    assert 'text.txt: no text to speak' in capsys.readouterr().err
  finally:
    hidden.rename(realtime_folder / 'model.safetensors')
  assert not marker.exists()


def test_text_in_pieces_may_be_cut_inside_a_letter():
  data = 'Grüße, 世界'.encode()
  pieces = iter([*(data[i : i + 1] for i in range(len(data))), b''])
  stream = types.SimpleNamespace(read1=lambda size: next(pieces))
  assert ''.join(terminal.arriving(stream)) == 'Grüße, 世界'
  bad = types.SimpleNamespace(read1=itertools.cycle([b'\xff']).__next__)
  with pytest.raises(ValueError, match='standard input'):
    list(terminal.arriving(types.SimpleNamespace(read1=lambda size: bad.read1())))
