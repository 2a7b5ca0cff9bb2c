"""Whisper against transformers through its own files, with re-drawn weights: initial biases of 0 would hide faults."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from core.engine.sampling import Sampling
from core.files.tokenizers import byte_tokenizer
from interp import whisper
from interp.whisper import alignment, decoder, frontend
from interp.whisper.decoding import rules
from interp.whisper.decoding.beam import beam
from interp.whisper.decoding.prefill import pack
from interp.whisper.decoding.sample import sample
from tests.interp.whisper.tiny import MARKS

pytestmark = pytest.mark.parity
TIMES = tuple(f'<|{i / 50:.2f}|>' for i in range(51))
PROCESSOR = whisper.Processor.of(byte_tokenizer((*MARKS, *TIMES)), {'is_multilingual': False})
IDS = PROCESSOR.ids
HEADS = [[1, 0], [1, 3], [2, 1]]
SUPPRESSED, FIRST = [7, 40, 41, IDS.sot], [32, IDS.eot]
NEW = 24
KEYS = ('sequences', 'token_timestamps')
RNG = np.random.default_rng(0)
MEL = RNG.normal(size=(2, 100, 16)).astype(np.float32)
TOKENS = RNG.integers(0, 250, (2, 11)).astype(np.int32)


SITES = {
  'self_attn': 'attn_out',
  'encoder_attn': 'cross_attn_out',
  'fc2': 'mlp_out',
  'self_attn_layer_norm': 'attn_in',
  'encoder_attn_layer_norm': 'cross_attn_in',
  'final_layer_norm': 'mlp_in',
}


def redraw(name, weight):
  noise = torch.randn_like(weight)
  if 'norm' in name and name.endswith('weight'):
    weight.copy_(1 + 0.2 * noise)
  elif weight.ndim == 1:
    weight.copy_(0.2 * noise)
  elif 'embed' in name:
    weight.copy_(0.3 * noise)
  else:
    weight.copy_(noise / np.prod(weight.shape[1:]) ** 0.5)


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """(their model, our config, our params, the folder that they wrote)."""
  from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

  tokens = {
    'decoder_start_token_id': IDS.sot,
    'bos_token_id': IDS.eot,
    'eos_token_id': IDS.eot,
    'pad_token_id': IDS.eot,
  }
  config = WhisperConfig(
    vocab_size=256 + len(MARKS) + len(TIMES),
    num_mel_bins=16,
    d_model=64,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=256,
    decoder_ffn_dim=256,
    max_source_positions=50,
    max_target_positions=64,
    suppress_tokens=None,
    begin_suppress_tokens=None,
    attn_implementation='eager',
    **tokens,
  )
  torch.manual_seed(0)
  net = WhisperForConditionalGeneration(config).eval()
  with torch.no_grad():
    for name, weight in net.named_parameters():
      redraw(name, weight)
  net.generation_config = GenerationConfig(
    is_multilingual=False,
    no_timestamps_token_id=IDS.no_timestamps,
    alignment_heads=HEADS,
    suppress_tokens=SUPPRESSED,
    begin_suppress_tokens=FIRST,
    max_initial_timestamp_index=10,
    return_timestamps=False,
    **tokens,
  )
  folder = tmp_path_factory.mktemp('whisper')
  net.save_pretrained(folder)
  return net, *whisper.load(folder), folder


def near(ours, theirs, tolerance):
  theirs = np.asarray(theirs.detach() if torch.is_tensor(theirs) else theirs)
  assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * max(theirs.std(), 1e-6)


@pytest.mark.parametrize('mels', [80, 128])
def test_log_mel(mels):
  from transformers import WhisperFeatureExtractor

  extractor = WhisperFeatureExtractor(feature_size=mels)
  samples = (0.1 * RNG.normal(size=100_000) + np.sin(np.arange(100_000) / 9)).astype(np.float32)
  theirs = extractor(samples, sampling_rate=16_000, return_tensors='np').input_features[0].T
  ours = frontend.log_mel(samples, mels, length=480_000)
  assert np.abs(ours - theirs).max() < 1e-4


def test_every_site_and_logits(pair):
  net, config, params, _ = pair
  seen = {}
  for side in ('encoder', 'decoder'):
    for i, layer in enumerate(getattr(net.model, side).layers):
      for name in filter(layer._modules.__contains__, SITES):

        def note(_, __, out, key=(side, name, i)):
          seen[key] = out[0] if isinstance(out, tuple) else out

        getattr(layer, name).register_forward_hook(note)
  with torch.no_grad():
    theirs = net(
      input_features=torch.tensor(MEL.swapaxes(1, 2)),
      decoder_input_ids=torch.tensor(TOKENS, dtype=torch.long),
      output_hidden_states=True,
      output_attentions=True,
    )
  ours = whisper.apply(params, config, jnp.asarray(MEL), TOKENS, keep=whisper.model.SITES)
  for (side, name, i), value in seen.items():
    prefix = 'encoder.' if side == 'encoder' else ''
    near(ours.kept[prefix + SITES[name]][i], value, 5e-4)
  assert len(seen) == 2 * 4 + 3 * 6
  for i in range(2):
    near(ours.kept['encoder.resid_in'][i], theirs.encoder_hidden_states[i], 5e-4)
  for i in range(3):
    near(ours.kept['resid_in'][i], theirs.decoder_hidden_states[i], 5e-4)
    near(ours.kept['pattern'][i], theirs.decoder_attentions[i], 5e-4)
    near(ours.kept['cross_pattern'][i], theirs.cross_attentions[i], 5e-4)
  near(ours.kept['final'], theirs.decoder_hidden_states[-1], 5e-4)
  near(ours.encoded, theirs.encoder_last_hidden_state, 5e-4)
  assert np.abs(np.asarray(ours.logits) - theirs.logits.numpy()).max() < 1e-4


def cut(row):
  """Their row without prompt, end and padding."""
  row = [t for t in row.tolist() if t not in (IDS.sot, IDS.no_timestamps)]
  return row[: row.index(IDS.eot)] if IDS.eot in row else row


@pytest.mark.parametrize('beams', [1, 4])
@pytest.mark.parametrize('timestamps', [False, True])
def test_generation_and_times(pair, timestamps, beams):
  net, config, params, _ = pair
  with torch.no_grad():
    theirs = net.generate(
      torch.tensor(MEL.swapaxes(1, 2)),
      max_new_tokens=NEW,
      num_beams=beams,
      return_timestamps=timestamps,
      return_token_timestamps=True,
      return_dict_in_generate=True,
    )
  processor = whisper.Processor.of(
    PROCESSOR.tokenizer,
    {
      'is_multilingual': False,
      'suppress_tokens': SUPPRESSED,
      'begin_suppress_tokens': FIRST,
      'max_initial_timestamp_index': 10,
    },
  )
  r = rules.of(processor, config.vocab, name='transformers', timestamps=timestamps)
  prompt = processor.prompt(timestamps=timestamps)
  packed = pack([prompt] * 2, IDS.sot)
  d = decoder.for_decoding(params.decoder)
  keys = decoder.cross_keys(d, whisper.encode(params, config, jnp.asarray(MEL))[0])
  if beams == 1:
    out = sample(d, config, keys, packed, r, Sampling.of(2), new=NEW, no_speech=IDS.no_speech)
  else:
    out = beam(d, config, keys, packed, r, new=NEW, no_speech=IDS.no_speech, beams=beams, style='transformers')
  for i in range(2):
    got = out.tokens[i, : int(out.count[i])].tolist()
    # With timestamps they go on after the last pair; the first window's own result is kept with its segments.
    result = theirs['segments'][i][0]['result'] if timestamps else {k: theirs[k][i] for k in KEYS}
    assert got == cut(result['sequences'])
    if beams == 1:
      start = result['sequences'].tolist().index(got[0])
      times = result['token_timestamps'].tolist()[start : start + len(got)]
      own = tuple(x[i : i + 1] for x in keys[0]), tuple(x[i : i + 1] for x in keys[1])
      ours = alignment.token_times(d, config, own, prompt, got, tuple(map(tuple, HEADS)))
      np.testing.assert_allclose(ours, times, atol=1e-6)


def test_files_out_are_theirs_byte_by_byte(pair, tmp_path):
  _, config, params, folder = pair
  whisper.save(tmp_path, config, params)
  assert (tmp_path / 'model.safetensors').read_bytes() == (folder / 'model.safetensors').read_bytes()
  assert whisper.load(tmp_path)[0] == config


TO_OPENAI = (
  (r'^model\.', ''),
  (r'embed_positions\.weight$', 'positional_embedding'),
  (r'embed_tokens', 'token_embedding'),
  (r'^encoder\.layer_norm', 'encoder.ln_post'),
  (r'^decoder\.layer_norm', 'decoder.ln'),
  (r'\.layers\.', '.blocks.'),
  (r'encoder_attn_layer_norm', 'cross_attn_ln'),
  (r'self_attn_layer_norm', 'attn_ln'),
  (r'final_layer_norm', 'mlp_ln'),
  (r'encoder_attn', 'cross_attn'),
  (r'self_attn', 'attn'),
  (r'q_proj', 'query'),
  (r'k_proj', 'key'),
  (r'v_proj', 'value'),
  (r'out_proj', 'out'),
  (r'fc1', 'mlp.0'),
  (r'fc2', 'mlp.2'),
)


def test_openai_files(pair, tmp_path):
  net, config, params, _ = pair
  state = {}
  for name, weight in net.state_dict().items():
    for pattern, replacement in TO_OPENAI:
      name = re.sub(pattern, replacement, name)
    if not name.startswith('proj_out'):
      state[name] = weight
  dims = {
    'n_mels': 16,
    'n_vocab': config.vocab,
    'n_audio_ctx': 50,
    'n_audio_state': 64,
    'n_audio_head': 4,
    'n_audio_layer': 2,
    'n_text_ctx': 64,
    'n_text_state': 64,
    'n_text_head': 4,
    'n_text_layer': 3,
  }
  torch.save({'dims': dims, 'model_state_dict': state}, tmp_path / 'x.pt')
  read, loaded = whisper.load(tmp_path / 'x.pt')
  assert read == config
  for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
    np.testing.assert_array_equal(ours, theirs)
