# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Speech, one latent a frame
#
# VibeVoice speaks by next-token diffusion: a language model reads the script, and at every frame a diffusion head draws
# one latent, which a codec turns into sound. Published weights are large; here a small model and its codec memorise one
# clip in about two minutes on two CPU cores. Set `ESPALIER_VOICE` to the folder of a TTS model from `vibevoice.train`,
# and the same cells let that model speak instead.
#
# The clip is spoken by espeak-ng (`pip install -e '.[espeak]'`).

# %%
import os

os.environ['JAX_PLATFORMS'] = 'cpu'

import dataclasses
import json
import pathlib
import tempfile

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Audio, display

import vibevoice
from core import audio
from vibevoice import compare, generation, scaling, tokenizer, train, train_tokenizer
from vibevoice.config import SAMPLE_RATE
from vibevoice.inputs import script as scripts
from vibevoice.inputs import voices
from vibevoice.toy import digits
from vibevoice.training import configs, reconstruction, recordings, tokenizer_configs

# %matplotlib inline
plt.rcParams.update({'figure.dpi': 80, 'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 10})
folder = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## One clip and a voice
#
# A line of the data has a script, its recording, and a recording of each speaker saying something else. We add the
# noise of a quiet room, which any recording has: no codec produces digital silence.

# %%
SAID = 'seven two four'
script = f'Speaker 1: {SAID}'
quiet = recordings.wrapped(digits.clip(SAID, 'low'), 0.2)
recording = recordings.dithered(quiet, np.random.default_rng(0))
voice = digits.clip(digits.PROMPT, 'low')
audio.save_wav(folder / 'clip.wav', recording, SAMPLE_RATE)
audio.save_wav(folder / 'voice.wav', voice, SAMPLE_RATE)
line = {'script': script, 'audio': 'clip.wav', 'voices': ['voice.wav']}
(folder / 'data.jsonl').write_text(json.dumps(line) + '\n')
Audio(recording, rate=SAMPLE_RATE)

# %% [markdown]
# ## Memorise it
#
# First the codec learns to say what it hears, in 32 numbers a frame; then language model and diffusion head learn to
# say the clip when they read its script. These are the programs `vibevoice.train_tokenizer` and `vibevoice.train`,
# called as functions.

# %%
# %%capture
data = (str(folder / 'data.jsonl'),)
model = os.environ.get('ESPALIER_VOICE')
if not model:
  codec = dataclasses.replace(
    tokenizer_configs.CONFIGS['tiny'], data=data, silence=0.0, batch=4, frames=8, steps=400, save_every=400
  )
  codec = dataclasses.replace(codec, optim=dataclasses.replace(codec.optim, lr=3e-3))
  train_tokenizer.main(codec, folder / 'codec')
  speech = dataclasses.replace(
    configs.CONFIGS['tiny'],
    model=str(folder / 'codec' / 'model'),
    data=data,
    silence=0.0,
    bare=0.0,
    batch=2,
    length=80,
    frames=48,
    steps=500,
    save_every=500,
  )
  speech = dataclasses.replace(speech, optim=dataclasses.replace(speech.optim, lr=2e-3, warmup_steps=20))
  train.main(speech, folder / 'speech')
  model = folder / 'speech' / 'model'
config, params = vibevoice.load(model, dtype=jnp.float32)
processor = vibevoice.Processor.load(model)

# %% [markdown]
# ## Speak
#
# The distance between log mel spectra says how close the speech is to the recording; the codec's own distance is about
# the lowest possible.

# %%
spoken = vibevoice.synthesize(params, config, processor, script, [voice], cfg_scale=1)
through = compare.through_codec(params.acoustic, config.acoustic, recording)
for name, samples in {'recording': recording, 'through the codec': through, 'spoken': spoken}.items():
  print(f'{name}: {len(samples) / SAMPLE_RATE:.2f} s, distance {compare.distance(recording, samples):.2f}')
  display(Audio(samples, rate=SAMPLE_RATE))
assert compare.distance(recording, spoken) <= 2 * compare.distance(recording, through)

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 2.6), sharey=True, layout='constrained')
for axis, (name, samples) in zip(axes, {'recording': recording, 'codec': through, 'spoken': spoken}.items()):
  mel = np.asarray(reconstruction.log_mel(samples[None], 1024, 80)[0])
  axis.imshow(mel.T, origin='lower', aspect='auto', vmin=-2, vmax=1, extent=(0, len(samples) / SAMPLE_RATE, 0, 80))
  axis.set(title=name, xlabel='seconds')
_ = axes[0].set_ylabel('mel')
# %% [markdown]
# ## Stream
#
# Each frame arrives before the next is computed. Joined, they are the speech above.

# %%
frames = list(vibevoice.synthesize(params, config, processor, script, [voice], cfg_scale=1, stream=True))
joined = np.concatenate(frames)
print(f'{len(frames)} frames of {1000 * len(frames[0]) / SAMPLE_RATE:.0f} ms')
print(f'largest difference from one call: {np.abs(joined - spoken).max():.1e}')

# %% [markdown]
# ## Latents as pictures
#
# A column is a frame: of the recording, as drawn by the head, and of the speech encoded again. The third differs from
# the second although the sound is close to the recording's: an encoder can tell that sound went through a codec. The
# semantic features of its own speech, which the language model reads, come from such an encoder, so training also takes
# them from recordings that went through the codec (`semantic_of='codec'`).

# %%
prompt = processor(scripts.parse(script), [voices.prepare(voice, config)])
made = generation.begin(params, config, [prompt], scale=1, steps=10, seed=0)
drawn = np.stack([frame.latents[0] for frame in made.frames() if frame.spoken[0]])


def encoded(samples):
  """What the language model sees of a clip."""
  means = tokenizer.encode(params.acoustic, config.acoustic, samples[None])
  return np.asarray(scaling.to_model(params.scaling, means)[0])


shown = {'recording': encoded(recording), 'drawn by the head': drawn, 'spoken, encoded again': encoded(spoken)}
figure, axes = plt.subplots(1, 3, figsize=(11, 2.6), sharey=True, layout='constrained')
for axis, (name, latents) in zip(axes, shown.items()):
  image = axis.imshow(latents.T, aspect='auto', cmap='RdBu_r', vmin=-3, vmax=3)
  axis.set(title=name, xlabel='frame')
axes[0].set_ylabel('dimension')
_ = figure.colorbar(image, ax=axes)

# %% [markdown]
# ## Another noise
#
# The head starts each frame from noise, so another seed says the same words a little differently; the words come from
# the script.

# %%
others = [vibevoice.synthesize(params, config, processor, script, [voice], cfg_scale=1, seed=seed) for seed in (1, 2)]
print([f'{compare.distance(recording, other):.2f}' for other in others])
