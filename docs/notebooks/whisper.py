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
# ask these questions of a real model.

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
# The decoder's blocks are zero except for two things: the last layer always votes for the end, and head 2 of
# cross-attention in layer 1 votes for the letter `a`, more strongly. So the model says `a` until it reaches its limit.

# %%
MARKS = (
  'endoftext',
  'startoftranscript',
  'en',
  'translate',
  'transcribe',
  'startoflm',
  'startofprev',
  'nospeech',
  'notimestamps',
)
TIMES = tuple(f'<|{i / 50:.2f}|>' for i in range(21))  # windows of 0.4 s
PLANTED = Component('cross_z', 1, 2)


def tiny():
  """(config, params, processor) of the model with the planted head."""
  marks = [f'<|{mark}|>' for mark in MARKS]
  tokenizer = byte_tokenizer((*marks, *TIMES))
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
  return config, params.replace(decoder=planted(params.decoder, processor.ids.eot)), processor


def planted(text, end):
  """The decoder with blocks that are zero but for the votes of the planted head and of the last layer."""
  blocks = jax.tree.map(jnp.zeros_like, text.blocks)
  letter = text.embed[ord('a')]
  site = (PLANTED.layer, PLANTED.head, 0)
  cross = blocks.cross.replace(
    v_bias=blocks.cross.v_bias.at[site].set(1.0),
    o=blocks.cross.o.at[site].set(200 * letter),
  )
  down_bias = blocks.down_bias.at[2].set(20 * text.embed[end])
  return text.replace(blocks=blocks.replace(cross=cross, down_bias=down_bias))


folder = os.environ.get('ESPALIER_WHISPER')
if folder:
  config, params = whisper.load(folder)
  processor = whisper.Processor.load(folder)
else:
  config, params, processor = tiny()
noise = np.random.default_rng(0).standard_normal(config.samples)
samples = 0.1 * noise.astype(np.float32)

# %% [markdown]
# ## When is each token decided?
#
# The logit lens puts the residual stream after each layer through the final norm and the output matrix. Each cell shows
# the layer's likeliest token; the colour is the probability of the token that the model says in the end.

# %%
study = report.study(params, config, processor, samples, language='en')
shown = charts.lens(study)
shown.set_size_inches(11, 2.4)
display(shown)

# %% [markdown]
# Before layer 1 nothing points to `a`; from layer 1 on everything does. `report.write` makes a page of this, with the
# recording.
#
# ## Which head decides?
#
# Zero one head at a time and compare the logit of the token said with that of the end. All heads of both attentions
# share one compiled program, because which head is zeroed is data; the encoder runs once.

# %%
mel = frontend.log_mel(samples, config.mels, length=config.samples)
encoded, _ = whisper.encode(params, config, jnp.asarray(mel[None]))
keys = decoder.cross_keys(params.decoder, encoded)
prompt = processor.prompt(language='en', timestamps=False)
first, rest = study.answer.tokens[:4], study.answer.tokens[4:]
tokens = jnp.asarray([[*prompt, *first]])
kept = decoder.forward(params.decoder, config, tokens, keys, keep=('resid_in', 'z', 'cross_z')).kept
said = rest[0] if rest else 0
answers = jnp.asarray([said, processor.ids.eot])
layers = range(config.decoder_depth)
heads = range(config.heads)
axes = patch.Axes(('z', 'cross_z'), tuple(layers), tuple(heads))
inputs = (params.decoder, keys, kept['resid_in'], answers)
logits = patch.sweep(DecoderLogits(config), axes, patch.zeros(kept), *inputs, resume=True)
difference = logits[..., 0, 0, 0] - logits[..., 0, 0, 1]

fig, panels = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True, layout='constrained')
size = np.abs(difference).max()
for panel, name, grid in zip(panels, ('self-attention', 'cross-attention'), difference):
  picture = panel.imshow(grid, cmap='RdBu', vmin=-size, vmax=size)
  panel.set(title=name, xlabel='head', xticks=heads, yticks=layers)
panels[0].set_ylabel('layer')
fig.colorbar(picture, ax=panels, label='token said - end')
plt.show()

# %% [markdown]
# One cell stands out: without that head the end wins.
#
# ## What do layers know of the sound?
#
# Tones of four pitches in loud noise. Each encoder layer gets a cross-validated probe with its interval, and the same
# probe on shuffled labels: without that control a good score on a small set means little.

# %%
rng = np.random.default_rng(1)
PITCHES = (200, 300, 450, 700)  # Hz
labels = np.repeat(np.arange(4), 16)
time = np.arange(config.samples) / 16_000


def tone(pitch):
  """A sine of random phase in noise."""
  phase = rng.uniform()
  noise = 5 * rng.standard_normal(len(time))
  return np.sin(2 * np.pi * (pitch * time + phase)) + noise


@jax.jit
def means(mel):
  """The mean over time of what enters the encoder and of each layer's output [1 + L, B, D]."""
  _, kept = whisper.encode(params, config, mel, keep=('encoder.embed', 'encoder.resid_out'))
  entering = kept['encoder.embed'].mean(1)
  return jnp.concatenate([entering[None], kept['encoder.resid_out'].mean(2)])


mels = [frontend.log_mel(tone(PITCHES[label]), config.mels, length=config.samples) for label in labels]
batches = np.split(np.stack(mels), 4)
states = np.concatenate([means(batch) for batch in batches], 1)
fitted = probe.fit(states, labels)

fig, axis = plt.subplots(figsize=(5, 2.6), layout='constrained')
layers = np.arange(len(fitted.accuracy))
axis.fill_between(layers, *fitted.interval.T, alpha=0.2)
axis.plot(layers, fitted.accuracy, marker='o', label='pitch')
axis.plot(layers, fitted.control, ls=':', color='grey', label='shuffled labels')
axis.axhline(fitted.chance, ls='--', color='black', lw=1, label='chance')
axis.set(xlabel='after encoder layer', ylabel='accuracy', xticks=layers, ylim=(0, 1.02))
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# The planted model's encoder has random weights, so this is what the frontend and random layers preserve.
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
alone = [(part,) for part in parts]
ends = ended(outcomes, [clip], alone)[:, 0]
needed = [str(part) for part, end in zip(parts, ends) if end]
print('the loop ends without', needed)

# %% [markdown]
# The planted head, and the whole cross-attention of its layer.
