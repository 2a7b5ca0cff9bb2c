"""Whole FLUX.1 and SD3 folders against the pipelines of diffusers: from prompts and noise to images."""

import importlib.util

import numpy as np
import pytest
import torch

from rl.flow import generation, prompts
from rl.flow.files import pipeline
from tests.parity.test_live_flow import near
from tests.rl.flow import tiny

pytestmark = [
  pytest.mark.parity,
  pytest.mark.skipif(importlib.util.find_spec('diffusers') is None, reason='diffusers is not installed'),
]
PROMPTS = ['a red cat  above', 'The BLUE circle, left!']


def theirs_of(family, folder):
  """Their pipeline, which reads the folder that we wrote."""
  import diffusers

  kind = diffusers.FluxPipeline if family == 'flux' else diffusers.StableDiffusion3Pipeline
  loaded = kind.from_pretrained(folder, torch_dtype=torch.float32)
  loaded.set_progress_bar_config(disable=True)
  # Published tokenizers declare their lengths in a file of their own.
  for name, length in (('tokenizer', 12), ('tokenizer_2', 512 if family == 'flux' else 12), ('tokenizer_3', 512)):
    if hasattr(loaded, name):
      getattr(loaded, name).model_max_length = length
  loaded.tokenizer_max_length = 12
  return loaded


@pytest.mark.parametrize('family', ['flux', 'sd3'])
def test_prompts_to_images(family, tmp_path):
  texts, generator = tiny.pipeline(family, tmp_path)
  pipeline.save(tmp_path / 'model', texts, generator)
  loaded = theirs_of(family, tmp_path / 'model')
  config = generator.transformer.config
  condition = prompts.encode(texts, PROMPTS, width=config.text, tokens=16)
  guidance = 3.5 if family == 'flux' else 4.5
  x = generation.noise([1, 2], (8, 12, config.channels))
  with torch.no_grad():
    encoded = loaded.encode_prompt(PROMPTS, **_again(family), max_sequence_length=16)
    near(condition.context, encoded[0])
    near(condition.pooled, encoded[1] if family == 'flux' else encoded[2])
    theirs = loaded(
      prompt=PROMPTS,
      latents=_latents(family, x),
      height=16,
      width=24,
      num_inference_steps=5,
      guidance_scale=guidance,
      max_sequence_length=16,
      output_type='np',
    ).images
  levels = loaded.scheduler.sigmas.numpy()
  schedule = generation.scheduler.schedule(generator.scheduler, 5, 4 * 6, generation.ENDS[family])
  np.testing.assert_allclose(schedule.levels, levels, rtol=1e-5)
  made = generation.latents(generator, condition, x, schedule, guidance=guidance)
  images = generation.run_decoder(generator.vae.params, generator.vae.config, made)
  ours = np.clip(np.asarray(images) / 2 + 0.5, 0, 1)
  assert theirs.std() > 0.05
  assert np.abs(ours - theirs).max() <= 1e-3


def _again(family):
  """The prompts of the other encoders: the same."""
  names = ('prompt_2',) if family == 'flux' else ('prompt_2', 'prompt_3')
  return dict.fromkeys(names, PROMPTS)


def _latents(family, x):
  """Noise [R, y, x, C] as their pipeline takes it."""
  channels_first = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)
  if family == 'sd3':
    return channels_first
  batch, channels, height, width = channels_first.shape
  squares = channels_first.reshape(batch, channels, height // 2, 2, width // 2, 2)
  return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, 4 * channels)
