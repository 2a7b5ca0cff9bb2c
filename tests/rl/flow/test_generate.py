"""Whole folders: round trip, prompts, images from the command line, hostile folders."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from core.files.store import CheckpointError
from rl.flow import generate, generation, mmdit, prompts, vae
from rl.flow.files import pipeline, scheduler
from tests.rl.flow import tiny


@pytest.fixture(scope='module', params=['flux', 'sd3'])
def folder(request, tmp_path_factory):
  """(family, texts, generator, the folder that they were saved in)."""
  base = tmp_path_factory.mktemp(request.param)
  texts, generator = tiny.pipeline(request.param, base)
  pipeline.save(base / 'model', texts, generator)
  return request.param, texts, generator, base / 'model'


def test_a_saved_folder_is_read_back_and_saved_alike(folder, tmp_path):
  _, texts, generator, path = folder
  read, made = pipeline.load_texts(path), pipeline.load_generator(path)
  assert (made.scheduler, made.transformer.config) == (generator.scheduler, generator.transformer.config)
  assert [part.config for part in read.clips] == [part.config for part in texts.clips]
  pipeline.save(tmp_path, read, made)
  names = sorted(p.relative_to(path) for p in path.rglob('*') if p.is_file())
  assert names == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob('*') if p.is_file())
  assert all((path / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def run(path, out, *flags):
  shape = ('--height=8', '--width=12', '--steps=2', '--images=2')
  return generate.main(['generate', f'--model={path}', '--prompt=a red cat', f'--out={out}', *shape, *flags])


@pytest.mark.slow
def test_images_from_the_command_line(folder, tmp_path, capsys):
  *_, path = folder
  assert run(path, tmp_path / 'a.png', '--prompt=the blue circle', '--seed=3') == 0
  assert '2 x 2 images of 8 x 12 pixels' in capsys.readouterr().out
  sheet = np.asarray(Image.open(tmp_path / 'a.png'))
  assert sheet.shape == (2 * 8 + 4, 2 * 12 + 4, 3)
  tiles = [sheet[y : y + 8, x : x + 12] for y in (0, 12) for x in (0, 16)]
  # Every prompt and every seed has an image of its own.
  assert all((a != b).any() for i, a in enumerate(tiles) for b in tiles[:i])
  assert run(path, tmp_path / 'b.png', '--seed=4', '--batch=2') == 0
  again = np.asarray(Image.open(tmp_path / 'b.png'))
  assert np.abs(again[:, :12].astype(int) - tiles[1]).max() <= 1  # seed 4, in another batch
  assert (again[:, 16:].astype(int) != tiles[1]).any()


@pytest.mark.parametrize(
  ('flags', 'status', 'message'),
  [
    (('--height=9',), 1, '9 x 12 pixels: expected positive multiples of 4'),
    (('--width=4000',), 1, 'expected at most 64 a side'),
    (('--steps=1',), 2, '2 or more'),
    (('--out=nowhere/a.png',), 2, 'a folder that exists'),
  ],
)
def test_impossible_requests_end_in_one_line(tmp_path, capsys, flags, status, message):
  texts, generator = tiny.pipeline('sd3', tmp_path)
  pipeline.save(tmp_path / 'model', texts, generator)
  assert run(tmp_path / 'model', tmp_path / 'a.png', *flags) == status
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1


def test_sd3_without_t5_reads_zeros(tmp_path):
  texts, generator = tiny.pipeline('sd3', tmp_path, with_t5=False)
  pipeline.save(tmp_path / 'model', texts, generator)
  read = pipeline.load_texts(tmp_path / 'model')
  assert read.t5 is None
  condition = prompts.encode(read, ['a red cat'], width=32, tokens=5)
  assert condition.context.shape == (1, 12 + 5, 32) and condition.pooled.shape == (1, 32)
  assert not condition.context[:, 12:].any() and not condition.context[:, :12, 24:].any()
  assert condition.nothing[0].shape == (1, 17, 32)


def broken(path, name, change):
  value = json.loads((path / name).read_text())
  (path / name).write_text(json.dumps(change(value)))


@pytest.mark.parametrize(
  ('name', 'change', 'message'),
  [
    ('model_index.json', lambda h: h | {'_class_name': 'PixArtPipeline'}, 'PixArtPipeline'),
    ('model_index.json', lambda h: h | {'transformer': ['x', 'Other']}, 'transformer='),
    ('model_index.json', lambda h: h | {'text_encoder': [None, None]}, 'text_encoder='),
    ('model_index.json', lambda h: h | {'controlnet': ['diffusers', 'X']}, 'not understood: controlnet'),
    ('transformer/config.json', lambda h: h | {'qk_norm': 'layer_norm'}, "qk_norm='layer_norm' is not supported"),
    ('transformer/config.json', lambda h: h | {'dual_attention_layers': [1]}, r'dual_attention_layers=\[1\]'),
    ('transformer/config.json', lambda h: h | {'num_layers': 10**9}, 'the config asks for 999999998 of them'),
    ('transformer/config.json', lambda h: h | {'caption_projection_dim': 31}, 'caption_projection_dim=31'),
    ('transformer/config.json', lambda h: h | {'in_channels': 5, 'out_channels': 5}, '5 latent channels'),
    ('transformer/config.json', lambda h: [], 'holds a list'),
    ('vae/config.json', lambda h: h | {'scaling_factor': 0}, 'scale=0'),
    ('vae/config.json', lambda h: h | {'up_block_types': ['X', 'X']}, 'up_block_types'),
    ('text_encoder/config.json', lambda h: h | {'hidden_act': 'relu'}, "hidden_act='relu' is not supported"),
    ('text_encoder_3/config.json', lambda h: h | {'feed_forward_proj': 'relu'}, 'feed_forward_proj'),
    ('scheduler/scheduler_config.json', lambda h: h | {'shift': 0}, 'shift=0'),
    ('scheduler/scheduler_config.json', lambda h: h | {'use_karras_sigmas': True}, 'use_karras_sigmas'),
  ],
)
def test_hostile_folders_are_refused_by_name(tmp_path, name, change, message):
  texts, generator = tiny.pipeline('sd3', tmp_path)
  pipeline.save(tmp_path / 'model', texts, generator)
  broken(tmp_path / 'model', name, change)
  with pytest.raises(CheckpointError, match=message):
    pipeline.load_texts(tmp_path / 'model')
    pipeline.load_generator(tmp_path / 'model')


def test_schedules_of_the_published_pipelines():
  flux = scheduler.schedule(scheduler.Scheduler(dynamic=True), 4, 4096, 'step')
  u = np.array([1, 0.75, 0.5, 0.25])
  want = np.exp(1.15) / (np.exp(1.15) + 1 / u - 1)
  np.testing.assert_allclose(flux.sigmas, [*want, 0], rtol=1e-9)
  sd3 = scheduler.schedule(scheduler.Scheduler(shift=3.0), 3, 0, 'tick')
  last = 3 * 0.001 / 1.002
  u = np.array([1, (1 + last) / 2, last])
  np.testing.assert_allclose(sd3.sigmas, [*(3 * u / (1 + 2 * u)), 0], rtol=1e-9)


@pytest.mark.slow
def test_guidance_takes_two_passes_where_the_model_has_no_input_for_it(tmp_path):
  texts, generator = tiny.pipeline('sd3', tmp_path)
  condition = prompts.encode(texts, ['a red cat'], width=32, tokens=4)
  part = generator.transformer
  x, time = jnp.asarray(tiny.inputs(part.config, batch=1)['latents']), jnp.full(1, 0.5)
  run = jax.jit(lambda context, pooled: mmdit.apply(part.params, part.config, x, time, context, pooled).velocity)
  wanted, empty = run(condition.context, condition.pooled), run(*condition.nothing)
  guided = jax.jit(lambda: generation.velocity(part.params, part.config, x, time, condition, guidance=4.5))()
  np.testing.assert_allclose(guided, empty + 4.5 * (wanted - empty), rtol=1e-4, atol=1e-4)


def test_damaged_weights_are_not_a_black_image():
  with pytest.raises(ValueError, match='NaN'):
    generation.to_bytes(np.array([[[[np.nan, 0, 0]]]], np.float32))
  np.testing.assert_array_equal(generation.to_bytes(np.array([-2.0, -1, 0, 1, 3])), [0, 0, 128, 255, 255])


def test_sizes_that_a_model_can_make():
  flux, coder = mmdit.CONFIGS['flux.1-dev'], vae.CONFIGS['flux.1']
  generation.check_size(flux, coder, 720, 1024)
  with pytest.raises(ValueError, match='multiples of 16'):
    generation.check_size(flux, coder, 1000, 1024)
