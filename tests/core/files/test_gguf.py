"""GGUF files become ordinary folders: tensors, rotary order, tokenizer; anything else is refused by name."""

import dataclasses

import gguf as library
import jax
import ml_dtypes
import numpy as np
import pytest

from core import decoder
from core.decoder import hf
from core.files import convert, shards, weights
from core.files.config import CheckpointError
from core.files.tensors import Files
from core.files.tokenizers import byte_characters, load_tokenizer

SPECIAL = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
TINY = dataclasses.replace(decoder.CONFIGS['tiny'], qk_norm=False, vocab=260, width=32, mlp_width=64, head_dim=8)
TEMPLATE = '{% for m in messages %}{{ m.content }}{% endfor %}'
KINDS = library.GGMLQuantizationType


def published(config) -> dict[str, np.ndarray]:
  """Random weights under the names of a published folder."""
  params = decoder.init(jax.random.key(0), config)
  entries = weights._entries(params, hf.names(config), decoder.spec(config))
  return {name: shards.gather(entry.parts) for name, entry in entries.items()}


def adjacent(rows: np.ndarray, heads: int) -> np.ndarray:
  """llama.cpp's order of q and k: row 2i of a head is row i, row 2i + 1 is row H/2 + i."""
  size = len(rows) // heads
  order = [head * size + i + half for head in range(heads) for i in range(size // 2) for half in (0, size // 2)]
  return rows[order]


def file_names(config) -> dict[str, tuple[str, int]]:
  """Name in the file → (published name, heads whose rows are reordered)."""
  names = {'token_embd.weight': ('model.embed_tokens.weight', 0), 'output_norm.weight': ('model.norm.weight', 0)}
  layer = {
    'attn_q': ('self_attn.q_proj', config.heads),
    'attn_k': ('self_attn.k_proj', config.kv_heads),
    'attn_v': ('self_attn.v_proj', 0),
    'attn_output': ('self_attn.o_proj', 0),
    'ffn_gate': ('mlp.gate_proj', 0),
    'ffn_up': ('mlp.up_proj', 0),
    'ffn_down': ('mlp.down_proj', 0),
    'attn_norm': ('input_layernorm', 0),
    'ffn_norm': ('post_attention_layernorm', 0),
  }
  for i in range(config.depth):
    for short, (long, heads) in layer.items():
      names[f'blk.{i}.{short}.weight'] = (f'model.layers.{i}.{long}.weight', heads)
  return names


class File:
  """A GGUF file to be written: change `fields`, `tensors` or `architecture`, then `write`."""

  def __init__(self, config=TINY, kind=KINDS.F32):
    self.architecture = 'llama'
    self.weights = published(config)
    self.fields = {
      'llama.embedding_length': config.width,
      'llama.block_count': config.depth,
      'llama.feed_forward_length': config.mlp_width,
      'llama.attention.head_count': config.heads,
      'llama.attention.head_count_kv': config.kv_heads,
      'llama.attention.key_length': config.head_dim,
      'llama.context_length': config.max_length,
      'llama.attention.layer_norm_rms_epsilon': config.norm_eps,
      'llama.rope.freq_base': config.rope_theta,
      'tokenizer.ggml.model': 'gpt2',
      'tokenizer.ggml.pre': 'smollm',
      'tokenizer.ggml.eos_token_id': 259,
      'tokenizer.chat_template': TEMPLATE,
    }
    self.merged = '12'  # which the split of digits keeps from being used
    self.tensors = {}
    for name, (source, heads) in file_names(config).items():
      values = self.weights[source]
      rows = adjacent(values, heads) if heads else values
      self.tensors[name] = (rows, kind if rows.ndim == 2 else KINDS.F32)

  def write(self, path) -> None:
    writer = library.GGUFWriter(path, self.architecture)
    add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
    for key, value in self.fields.items():
      add[type(value)](key, value)
    writer.add_token_list([*byte_characters(), self.merged, *SPECIAL])
    writer.add_token_types([1] * 257 + [3] * len(SPECIAL))
    writer.add_token_merges(['1 2'])
    for name, (values, kind) in self.tensors.items():
      writer.add_tensor(name, library.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize('kind, error', [('F32', 0), ('F16', 1e-3), ('Q8_0', 0.01), ('Q4_1', 0.1)])
def test_a_folder_has_the_weights_of_the_file(kind, error, tmp_path):
  """Relative to the largest of all weights; a rotary order that is not undone is wrong by more than that."""
  file = File(kind=KINDS[kind])
  file.write(tmp_path / 'model.gguf')
  convert.convert(tmp_path / 'model.gguf', tmp_path / 'folder')
  config, params = decoder.load(tmp_path / 'folder')
  assert config == TINY
  entries = weights._entries(params, hf.names(config), decoder.spec(config))
  assert entries.keys() == file.weights.keys()
  for name, want in file.weights.items():
    got = shards.gather(entries[name].parts)
    assert np.abs(got - want).max() <= error * np.abs(want).max(), name


def test_weights_are_written_in_the_dtype_asked_for(tmp_path):
  File().write(tmp_path / 'model.gguf')
  target = tmp_path / 'folder'
  assert convert.main(['convert', '--dtype=bfloat16', str(tmp_path / 'model.gguf'), str(target)]) == 0
  assert Files(target).dtype == ml_dtypes.bfloat16


def test_the_tokenizer_splits_digits_and_keeps_the_template(tmp_path):
  file = File()
  file.write(tmp_path / 'model.gguf')
  convert.convert(tmp_path / 'model.gguf', tmp_path / 'folder')
  tokenizer = load_tokenizer(tmp_path / 'folder')
  assert tokenizer.encode('a12') == [ord('a'), ord('1'), ord('2')]
  assert tokenizer.encode('<|im_end|>') == [259] and tokenizer.eos_token_id == 259
  assert tokenizer.apply_chat_template([{'role': 'user', 'content': 'hi'}], tokenize=False) == 'hi'


def test_an_untied_head_becomes_a_head(tmp_path):
  file = File(dataclasses.replace(TINY, tied=False))
  head = file.weights['lm_head.weight']
  file.tensors['output.weight'] = (head, KINDS.F32)
  file.write(tmp_path / 'model.gguf')
  convert.convert(tmp_path / 'model.gguf', tmp_path / 'folder')
  _, params = decoder.load(tmp_path / 'folder')
  np.testing.assert_array_equal(params.head, head.T)


REFUSED = {
  'architecture': (lambda f: setattr(f, 'architecture', 'qwen2'), "general.architecture='qwen2'; expected llama"),
  'rope scaling': (lambda f: f.fields.update({'llama.rope.scaling.type': 'yarn'}), "rope.scaling.type='yarn'"),
  'partial rotation': (lambda f: f.fields.update({'llama.rope.dimension_count': 4}), 'rope.dimension_count=4'),
  'experts': (lambda f: f.fields.update({'llama.expert_count': 8}), 'llama.expert_count=8'),
  'missing size': (lambda f: f.fields.pop('llama.block_count'), "'llama.block_count' is missing"),
  'sentencepiece': (lambda f: f.fields.update({'tokenizer.ggml.model': 'llama'}), "tokenizer.ggml.model='llama'"),
  'another split': (lambda f: f.fields.update({'tokenizer.ggml.pre': 'llama-bpe'}), "tokenizer.ggml.pre='llama-bpe'"),
  'merges': (lambda f: setattr(f, 'merged', '13'), 'tokens and merges do not fit'),
  'a bias': (
    lambda f: f.tensors.update({'blk.0.attn_q.bias': (np.zeros(32, np.float32), KINDS.F32)}),
    "tensor 'blk.0.attn_q.bias' has no place",
  ),
  'frequency factors': (
    lambda f: f.tensors.update({'rope_freqs.weight': (np.ones(4, np.float32), KINDS.F32)}),
    "tensor 'rope_freqs.weight' has no place",
  ),
  'another quantisation': (
    lambda f: f.tensors.update({'output_norm.weight': (np.zeros((1, 32), np.float32), KINDS.Q5_0)}),
    'output_norm.weight is stored as Q5_0',
  ),
}


@pytest.mark.parametrize('fault', REFUSED)
def test_what_the_decoder_cannot_do_is_refused_by_name(fault, tmp_path):
  change, message = REFUSED[fault]
  file = File()
  change(file)
  file.write(tmp_path / 'model.gguf')
  with pytest.raises(CheckpointError) as refusal:
    convert.convert(tmp_path / 'model.gguf', tmp_path / 'folder')
  assert message in str(refusal.value) and 'model.gguf' in str(refusal.value)
  assert not (tmp_path / 'folder' / 'config.json').exists()


@pytest.mark.parametrize(
  'content, message', [(b'PK\3\4 zip', 'expected a GGUF file'), (b'GGUF\3\0\0', 'not a GGUF file')]
)
def test_a_file_of_another_format_is_refused(content, message, tmp_path):
  file = tmp_path / 'model.bin'
  file.write_bytes(content)
  with pytest.raises(CheckpointError, match=message):
    convert.convert(file, tmp_path / 'folder')


def test_the_command_needs_a_source_and_a_target(capsys):
  assert convert.main(['convert', 'one']) == 2
  assert 'expected SOURCE TARGET' in capsys.readouterr().err
