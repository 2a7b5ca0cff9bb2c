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
# # Inside a speech recogniser: lens, patches, probes, loops
#
# Four questions about one model: when is a word decided, which heads decide it, what do layers know of the sound, and
# what makes the model repeat itself? The model is a Whisper of a few thousand weights in which we plant the answer, so
# nothing is downloaded and two CPU cores need about a minute. Set `ESPALIER_WHISPER` to the folder of a checkpoint to
# ask a real one.

# %%
import os

# Quick compilation, since the model is tiny. Set before JAX starts.
os.environ['XLA_FLAGS'] = '--xla_backend_optimization_level=0'
os.environ['JAX_PLATFORMS'] = 'cpu'

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from core.files.tokenizers import byte_tokenizer
from interp import patch, probe, report, whisper
from interp.loops import Component, components
from interp.loops.clips import Clip
from interp.loops.outcomes import Outcomes, ended
from interp.report import charts
from interp.whisper import decoder, frontend
from interp.whisper.decoding.window import Recogniser
from interp.whisper.options import Options
from interp.whisper.patching import DecoderLogits

# %matplotlib inline
plt.rcParams.update({'figure.dpi': 80, 'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 11})

# %% [markdown]
# ## A model with a secret
#
# The decoder's blocks are zero but for two things: the last layer always votes for the end, and head 2 of
# cross-attention in layer 1 votes for the letter `a`, louder. So the model says `a` until it may not go on.

# %%
MARKS = ('endoftext', 'startoftranscript', 'en', 'translate', 'transcribe', 'startoflm', 'startofprev', 'nospeech')
TIMES = tuple(f'<|{i / 50:.2f}|>' for i in range(21))  # windows of 0.4 s
PLANTED = Component('cross_z', 1, 2)


def tiny():
  """(config, params, processor) of the model with the planted head."""
  tokenizer = byte_tokenizer((*(f'<|{mark}|>' for mark in (*MARKS, 'notimestamps')), *TIMES))
  processor = whisper.Processor.of(tokenizer, {'is_multilingual': False})
  config = whisper.Config(
    width=32,
    heads=4,
    encoder_depth=3,
    decoder_depth=3,
    vocab=len(tokenizer),
    mels=16,
    audio_length=20,
    text_length=60,
  )
  params = whisper.init(jax.random.key(0), config)
  text = params.decoder
  blocks = jax.tree.map(jnp.zeros_like, text.blocks)
  says, ends = text.embed[ord('a')], text.embed[processor.ids.eot]
  cross = blocks.cross.replace(
    v_bias=blocks.cross.v_bias.at[PLANTED.layer, PLANTED.head, 0].set(1.0),
    o=blocks.cross.o.at[PLANTED.layer, PLANTED.head, 0].set(200 * says),
  )
  blocks = blocks.replace(cross=cross, down_bias=blocks.down_bias.at[2].set(20 * ends))
  return config, params.replace(decoder=text.replace(blocks=blocks)), processor


folder = os.environ.get('ESPALIER_WHISPER')
if folder:
  config, params = whisper.load(folder)
  processor = whisper.Processor.load(folder)
else:
  config, params, processor = tiny()
samples = 0.1 * np.random.default_rng(0).standard_normal(config.samples).astype(np.float32)

# %% [markdown]
# ## When is each token decided?
#
# The logit lens puts the residual stream after each layer through the final norm and the output matrix. Each cell holds
# the layer's own favourite; the colour is the probability of the token that the model says in the end.

# %%
study = report.study(params, config, processor, samples, language='en')
shown = charts.lens(study)
shown.set_size_inches(11, 2.4)
display(shown)

# %% [markdown]
# Before layer 1 nothing points to `a`; from layer 1 on everything does. `report.write` makes a page of this with the
# recording in it.
#
# ## Which head decides?
#
# Zero one head at a time and read the logit of the token said against that of the end. All heads of both attentions
# are one compiled program, because which head is zeroed is data; the encoder runs once.

# %%
mel = frontend.log_mel(samples, config.mels, length=config.samples)
encoded, _ = whisper.encode(params, config, jnp.asarray(mel[None]))
keys = decoder.cross_keys(params.decoder, encoded)
prompt = processor.prompt(language='en', timestamps=False)
tokens = jnp.asarray([[*prompt, *study.answer.tokens[:4]]])
kept = decoder.forward(params.decoder, config, tokens, keys, keep=('resid_in', 'z', 'cross_z')).kept
answers = jnp.asarray([study.answer.tokens[4] if len(study.answer.tokens) > 4 else 0, processor.ids.eot])
axes = patch.Axes(('z', 'cross_z'), tuple(range(config.decoder_depth)), tuple(range(config.heads)))
inputs = (params.decoder, keys, kept['resid_in'], answers)
logits = patch.sweep(DecoderLogits(config), axes, patch.zeros(kept), *inputs, resume=True)
difference = logits[..., 0, 0, 0] - logits[..., 0, 0, 1]

fig, panels = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True, layout='constrained')
size = np.abs(difference).max()
for panel, name, grid in zip(panels, ('self-attention', 'cross-attention'), difference):
  picture = panel.imshow(grid, cmap='RdBu', vmin=-size, vmax=size)
  panel.set(title=name, xlabel='head', xticks=range(config.heads), yticks=range(config.decoder_depth))
panels[0].set_ylabel('layer')
fig.colorbar(picture, ax=panels, label='token said - end')
plt.show()

# %% [markdown]
# One cell stands out: without that head the end wins.
#
# ## What do layers know of the sound?
#
# Tones of four pitches in loud noise. A probe of each encoder layer, cross-validated, with its interval, and next to it
# the same probe on shuffled labels: without that control a good score of a small set means little.

# %%
rng = np.random.default_rng(1)
PITCHES = (200, 300, 450, 700)  # Hz
labels = np.repeat(np.arange(4), 16)
time = np.arange(config.samples) / 16_000
tones = [np.sin(2 * np.pi * (PITCHES[i] * time + rng.uniform())) + 5 * rng.standard_normal(len(time)) for i in labels]
mels = np.stack([frontend.log_mel(tone, config.mels, length=config.samples) for tone in tones])
encode = jax.jit(lambda mel: whisper.encode(params, config, mel, keep=('encoder.embed', 'encoder.resid_out'))[1])
states = [encode(mels[i : i + 16]) for i in range(0, len(mels), 16)]
means = [np.concatenate([x['encoder.embed'].mean(1)[None], x['encoder.resid_out'].mean(2)]) for x in states]
found = probe.fit(np.concatenate(means, 1), labels)

fig, axis = plt.subplots(figsize=(5, 2.6), layout='constrained')
layers = np.arange(len(found.accuracy))
axis.fill_between(layers, *found.interval.T, alpha=0.2)
axis.plot(layers, found.accuracy, marker='o', label='pitch')
axis.plot(layers, found.control, ls=':', color='grey', label='shuffled labels')
axis.axhline(found.chance, ls='--', color='black', lw=1, label='chance')
axis.set(xlabel='after encoder layer', ylabel='accuracy', xticks=layers, ylim=(0, 1.02))
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# The planted model's encoder has random weights, so this is what the frontend and random layers keep.
#
# ## What makes it repeat itself?
#
# Decode the clip without each head and each branch: every set of components is a row of one compiled program. On real
# recordings `python -m interp.loops` makes the clips, chooses on half of them and counts on the other half.

# %%
options = Options(timestamps=False, previous=False, temperatures=(0.0,))
work = pathlib.Path(tempfile.mkdtemp())
outcomes = Outcomes(Recogniser(params, config, processor, options), None, work, 'notebook')
clip = Clip('noise', 0, 'unchanged', samples)
(said,) = outcomes(clip, [()])
print(f'says {said.text[:30]!r}, compression ratio {said.compression}: loops {said.loops}')

parts = components(config)
ends = ended(outcomes, [clip], [(part,) for part in parts])[:, 0]
print('the loop ends without', [str(part) for part, end in zip(parts, ends) if end])

# %% [markdown]
# The planted head, and the whole cross-attention of its layer.
