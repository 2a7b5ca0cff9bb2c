"""PEFT adapter folders: the published formula, merged and unmerged equal, foreign fields refused by name."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import internvl
from core import decoder
from core.files.store import CheckpointError, Folder
from core.params import Lora, fold
from core.training import lora

TINY = decoder.CONFIGS['tiny']
CONFIG = {'peft_type': 'LORA', 'r': 4, 'lora_alpha': 6, 'target_modules': ['q_proj', 'o_proj'], 'bias': 'none'}
SIZES = {  # stored [out, in] of the adapted modules
  'self_attn.q_proj': (TINY.heads * TINY.head_dim, TINY.width),
  'self_attn.o_proj': (TINY.width, TINY.heads * TINY.head_dim),
  'mlp.down_proj': (TINY.width, TINY.mlp_width),
}


def draw(spec, seed: int = 0):
  """Float32 weights, drawn without compiling anything."""
  r = np.random.default_rng(seed)
  return jax.tree.map(lambda s: r.standard_normal(s.shape, np.float32) / np.float32(s.fan_in**0.5), spec)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  folder = tmp_path_factory.mktemp('base')
  decoder.save(folder, TINY, draw(decoder.spec(TINY)))
  return folder


def adapter_tensors(prefix: str = 'base_model.model.model.') -> dict[str, np.ndarray]:
  r = np.random.default_rng(1)
  tensors = {}
  for layer in range(TINY.depth):
    for module, (outputs, inputs) in SIZES.items():
      at = f'{prefix}layers.{layer}.{module}'
      tensors[f'{at}.lora_A.weight'] = r.standard_normal((4, inputs), np.float32)
      tensors[f'{at}.lora_B.weight'] = r.standard_normal((outputs, 4), np.float32)
  return tensors


def write(folder, tensors=None, **fields):
  folder.mkdir(exist_ok=True)
  save_file(
    adapter_tensors() if tensors is None else tensors, folder / 'adapter_model.safetensors', metadata={'format': 'pt'}
  )
  (folder / 'adapter_config.json').write_text(json.dumps(CONFIG | fields))
  return folder


@pytest.mark.parametrize('fields, scale', [({}, 6 / 4), ({'use_rslora': True}, 6 / 2)])
def test_merged_weights_are_those_of_the_formula(fields, scale, base, tmp_path):
  """W + scale · B A in float64 on the files' own tensors, whose names and layout our tree does not decide."""
  adapter = write(tmp_path / 'adapter', **fields)
  config, adapted = decoder.load(base, adapter=adapter)
  decoder.save(tmp_path / 'merged', config, adapted)
  before, after = load_file(base / 'model.safetensors'), load_file(tmp_path / 'merged/model.safetensors')
  factors = adapter_tensors()
  for name, weight in before.items():
    module = 'base_model.model.' + name.removesuffix('.weight')
    want = weight.astype(np.float64)
    if f'{module}.lora_A.weight' in factors:
      a, b = (factors[f'{module}.lora_{x}.weight'].astype(np.float64) for x in 'AB')
      want = want + scale * b @ a
    np.testing.assert_allclose(after[name], want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_unmerged_computes_as_merged_and_comes_back(base, tmp_path):
  config, adapted = decoder.load(base, adapter=write(tmp_path / 'adapter'))
  assert isinstance(adapted.blocks.attn.o, Lora) and not isinstance(adapted.blocks.attn.k, Lora)
  tokens = np.arange(12, dtype=np.int32)[None]
  apart, merged = (decoder.apply(p, config, tokens).logits for p in (adapted, fold(adapted)))
  plain = decoder.apply(decoder.load(base)[1], config, tokens).logits
  np.testing.assert_allclose(apart, merged, atol=1e-4)
  assert np.abs(merged - plain).max() > 0.1
  decoder.save_adapter('memory://adapter', config, adapted, base='org/base')
  again = Folder('memory://adapter')
  assert again.read('adapter_model.safetensors') == (tmp_path / 'adapter/adapter_model.safetensors').read_bytes()
  h = json.loads(again.read('adapter_config.json'))
  assert (h['r'], h['lora_alpha'], h['base_model_name_or_path']) == (4, 6, 'org/base')
  loaded = decoder.load(base, adapter='memory://adapter')[1]
  assert jax.tree.structure(loaded) == jax.tree.structure(adapted)


REFUSED = {
  'dora': ({'use_dora': True}, 'use_dora=True is not supported; expected False'),
  'biases': ({'bias': 'all'}, "bias='all' is not supported; expected 'none'"),
  'whole modules': ({'modules_to_save': ['lm_head']}, r"modules_to_save=\['lm_head'\] is not supported"),
  'ranks': ({'rank_pattern': {'q_proj': 8}}, r"rank_pattern=\{'q_proj': 8\} is not supported; expected"),
  'another method': ({'peft_type': 'IA3'}, "peft_type='IA3' is not supported; expected 'LORA'"),
  'a base that moved': ({'init_lora_weights': 'pissa'}, "init_lora_weights='pissa'"),
  'a new field': ({'use_someday': True}, 'not understood: use_someday=True'),
  'another rank': ({'r': 8}, r'lora_A\.weight: shape \(4, 64\), the model expects \(8, 64\)'),
  'no rank': ({'r': 0}, 'r=0; expected 1 or more'),
}


@pytest.mark.parametrize('fault', REFUSED)
def test_what_is_not_supported_is_refused_by_name(fault, base, tmp_path):
  fields, message = REFUSED[fault]
  with pytest.raises(CheckpointError, match=message):
    decoder.load(base, adapter=write(tmp_path / 'adapter', **fields))


def test_tensors_that_do_not_fit_are_named(base, tmp_path):
  tensors = adapter_tensors()
  del tensors['base_model.model.model.layers.1.mlp.down_proj.lora_B.weight']
  tensors['base_model.model.model.embed_tokens.lora_embedding_A'] = np.zeros((4, 3), np.float32)
  with pytest.raises(CheckpointError) as error:
    decoder.load(base, adapter=write(tmp_path / 'adapter', tensors))
  assert 'layers.1.mlp.down_proj.lora_B.weight: missing' in str(error.value)
  assert 'embed_tokens.lora_embedding_A: not part of this model' in str(error.value)
  foreign = {name.replace('self_attn', 'attention'): w for name, w in tensors.items() if 'self_attn' in name}
  with pytest.raises(CheckpointError, match=r'no tensor of the adapter belongs .*expected names such as base_model'):
    decoder.load(base, adapter=write(tmp_path / 'foreign', foreign))


@pytest.mark.slow
@pytest.mark.parametrize('layout', 'ABC')
def test_internvl_reads_the_names_of_every_layout(layout, tmp_path):
  config = internvl.CONFIGS['tiny']
  params = draw(internvl.spec(config))
  internvl.save(tmp_path / 'base', config, params)
  pattern = r'language\.blocks\.(attn\.[qkvo]|mlp\.up)|projector\.up'
  adapted = lora.adapt(jax.random.key(0), params, internvl.spec(config), pattern, rank=2, alpha=3.0)
  adapted = jax.tree.map(lambda w: w + 0.5 if w.shape[-1:] != (2,) else w, adapted)  # b starts at zero
  internvl.save_adapter(tmp_path / 'adapter', config, adapted, layout=layout)
  _, loaded = internvl.load(tmp_path / 'base', dtype=jnp.float32, adapter=tmp_path / 'adapter')
  is_lora = lambda w: isinstance(w, Lora)
  want, got = (
    {str(at): w for at, w in jax.tree.leaves_with_path(p, is_leaf=is_lora) if is_lora(w)} for p in (adapted, loaded)
  )
  assert got.keys() == want.keys() and len(got) == 6
  for at, w in want.items():
    assert got[at].alpha == 3.0 and np.array_equal(got[at].a, w.a) and np.array_equal(got[at].b, w.b)


def test_what_a_layout_cannot_hold_is_refused_on_save(tmp_path):
  config = internvl.CONFIGS['tiny']
  params = draw(internvl.spec(config))
  vision = lora.adapt(jax.random.key(0), params, internvl.spec(config), r'vision\.blocks\.attn\.q', rank=2)
  with pytest.raises(ValueError, match=r'vision\.blocks\.attn\.q.*not a matrix of its own'):
    internvl.save_adapter(tmp_path, config, vision, layout='A')
  with pytest.raises(ValueError, match='no Lora weight'):
    internvl.save_adapter(tmp_path, config, params)
  mixed = lora.adapt(jax.random.key(0), vision, internvl.spec(config), r'vision\.blocks\.attn\.k', rank=3)
  with pytest.raises(ValueError, match='expected a single pair'):
    internvl.save_adapter(tmp_path, config, mixed)
  assert not list(tmp_path.iterdir())


def test_a_fused_tensor_shares_the_first_factor(tmp_path):
  """Layout A stores q, k and v of the vision tower as one matrix, so an adapter of it has one lora_A for the three."""
  config = internvl.CONFIGS['tiny']
  internvl.save(tmp_path / 'base', config, draw(internvl.spec(config)), layout='A')
  r, width = np.random.default_rng(0), config.vision.width
  tensors = {}
  for layer in range(config.vision.depth):
    at = f'base_model.model.vision_model.encoder.layers.{layer}.attn.qkv'
    tensors[f'{at}.lora_A.weight'] = r.standard_normal((4, width), np.float32)
    tensors[f'{at}.lora_B.weight'] = r.standard_normal((3 * width, 4), np.float32)
  adapter = write(tmp_path / 'adapter', tensors, lora_alpha=4)
  _, adapted = internvl.load(tmp_path / 'base', dtype=jnp.float32, adapter=adapter)
  internvl.save(tmp_path / 'merged', dataclasses.replace(config), adapted, layout='A')
  before, after = (load_file(tmp_path / name / 'model.safetensors') for name in ('base', 'merged'))
  name = 'vision_model.encoder.layers.0.attn.qkv'
  a, b = (tensors[f'base_model.model.{name}.lora_{x}.weight'] for x in 'AB')
  np.testing.assert_allclose(after[f'{name}.weight'], before[f'{name}.weight'] + b @ a, atol=1e-4)
