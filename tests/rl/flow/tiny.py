"""Tiny flow models with weights that do something: published initial values are 0 in every modulation."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece

from core.files.tokenizers import byte_characters
from core.params import ones
from rl.flow import mmdit, vae
from rl.flow.files import pipeline as files
from rl.flow.files.scheduler import Scheduler
from rl.flow.text import clip, t5, tokenizers
from rl.flow.text.tokenizers import END, START


def redrawn(spec, seed=0):
  """Weights of a spec, all drawn from normals; vectors that start at ones are near 1. Drawn on the host: no program."""
  rng = np.random.default_rng(seed)

  def draw(s):
    noise = rng.standard_normal(s.shape)
    if len(s.shape) - s.stack <= 1:
      return jnp.asarray(0.2 * noise + (s.init is ones), jnp.float32)
    return jnp.asarray(noise / np.sqrt(s.fan_in), jnp.float32)

  return jax.tree.map(draw, spec)


def transformer(name='tiny', **changes):
  """(config, params) of a tiny transformer."""
  config = dataclasses.replace(mmdit.CONFIGS[name], **changes)
  return config, redrawn(mmdit.spec(config))


def inputs(config, *, batch=2, rows=4, columns=6, tokens=3, seed=0):
  """Random latents, times, context and pooled text, and a guidance scale where the model wants one, by name."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  arrays = {
    'latents': draw(batch, rows, columns, config.channels),
    'time': np.linspace(0.2, 0.9, batch, dtype=np.float32),
    'context': draw(batch, tokens, config.text),
    'pooled': draw(batch, config.pooled),
  }
  return arrays | ({'guidance': np.full(batch, 3.5, np.float32)} if config.guidance else {})


CLIP_MERGES = ('c a', 'ca t</w>', 'r e', 're d</w>')


def clip_vocabulary():
  """Token → id: the letters of all bytes, inside and at the end of a word, a few merges, start and end."""
  letters = byte_characters()
  merged = [line.replace(' ', '') for line in CLIP_MERGES]
  tokens = [*letters, *(f'{letter}</w>' for letter in letters), *merged, START, END]
  return {token: i for i, token in enumerate(tokens)}


def write_clip_tokenizer(folder, pad='!'):
  """The files of a CLIP tokenizer."""
  (folder / 'vocab.json').write_text(json.dumps(clip_vocabulary()), encoding='utf-8')
  (folder / 'merges.txt').write_text('\n'.join(('#version: 0.2', *CLIP_MERGES)) + '\n', encoding='utf-8')
  (folder / 'special_tokens_map.json').write_text(json.dumps({'pad_token': pad}), encoding='utf-8')


def write_t5_tokenizer(folder, size=64):
  """A SentencePiece model with T5's ids of padding, end and unknown text, trained on a few words."""
  model = io.BytesIO()
  words = ('red', 'green', 'blue', 'square', 'circle', 'small', 'large', 'a', 'the', 'left', 'right', 'above')
  lines = [' '.join(words[i:] + words[:i]) for i in range(len(words))]
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines * 4),
    model_writer=model,
    vocab_size=size,
    model_type='unigram',
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    character_coverage=1.0,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  (folder / 'spiece.model').write_bytes(model.getvalue())


TEXT = {'flux': (None,), 'sd3': (24, 8)}  # projections of the CLIP encoders
WIDTHS = {'flux': 20, 'sd3': 12}


def pipeline(family, folder, *, with_t5=True):
  """(texts, generator) of a tiny folder with random weights; tokenizer files are written beneath `folder`."""
  tokenizer = folder / 'tokenizers'
  for name, write in (('clip', write_clip_tokenizer), ('t5', write_t5_tokenizer)):
    (tokenizer / name).mkdir(parents=True)
    write(tokenizer / name)
  vocab = clip_vocabulary()
  options = {'depth': 2, 'heads': 2, 'hidden': 32, 'vocab': len(vocab), 'length': 12, 'eos': vocab[END]}
  clips = []
  for projection in TEXT[family]:
    config = clip.Config(width=WIDTHS[family], projection=projection, **options)
    clips.append(files.TextPart(config, redrawn(clip.spec(config)), tokenizer=tokenizers.load_clip(tokenizer / 'clip')))
  config = t5.Config(width=32, depth=2, heads=2, head_dim=6, hidden=24, vocab=80)
  reader = tokenizers.load_t5(tokenizer / 't5')
  spoken = files.TextPart(config, redrawn(t5.spec(config)), tokenizer=reader)
  pooled = sum(projection or WIDTHS[family] for projection in TEXT[family])
  name = 'tiny-flux' if family == 'flux' else 'tiny'
  config, params = transformer(name, text=32, pooled=pooled)
  coder = vae.CONFIGS['tiny']
  generator = files.Generator(
    family=family,
    transformer=files.Part(config, params),
    vae=files.Part(coder, redrawn(vae.spec(coder))),
    scheduler=Scheduler(shift=3.0, dynamic=family == 'flux'),
  )
  return files.Texts(family=family, clips=tuple(clips), t5=spoken if with_t5 else None), generator
