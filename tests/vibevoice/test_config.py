"""The published sizes, and configurations that cannot be."""

import dataclasses

import pytest

import vibevoice
from core import decoder, params
from vibevoice.config import TokenizerConfig


@pytest.mark.parametrize(('size', 'count'), [('1.5B', 1_543_714_304), ('7B', 7_070_619_136 + 544_997_376)])
def test_language_models_have_the_published_number_of_parameters(size, count):
  assert params.count(decoder.spec(vibevoice.CONFIGS[size].language)) == count


def test_realtime_cuts_one_language_model_in_two():
  config = vibevoice.CONFIGS['Realtime-0.5B']
  lower, upper = decoder.spec(config.lower), decoder.spec(config.upper)
  assert lower.blocks.mlp_norm.shape == (4, 896) and upper.blocks.mlp_norm.shape == (20, 896)
  assert lower.norm is None and upper.embed is None and lower.head is None and upper.head is None


def test_a_frame_is_3200_samples_and_stages_double():
  acoustic = vibevoice.CONFIGS['1.5B'].acoustic
  assert acoustic.hop == 3200
  assert acoustic.widths == (32, 64, 128, 256, 512, 1024, 2048)


def test_impossible_configurations_are_refused():
  tiny = vibevoice.CONFIGS['tiny']
  with pytest.raises(ValueError, match='one depth more'):
    TokenizerConfig(latent=8, ratios=(2, 4), depths=(1, 1))
  with pytest.raises(ValueError, match=r'std=0\.5'):
    TokenizerConfig(latent=8, std=0.5)
  with pytest.raises(ValueError, match='head of width 8'):
    dataclasses.replace(tiny, head=dataclasses.replace(tiny.head, width=8))
  with pytest.raises(ValueError, match='head of latent 4'):
    dataclasses.replace(tiny, head=dataclasses.replace(tiny.head, latent=4))
  with pytest.raises(ValueError, match='outside the vocabulary'):
    dataclasses.replace(tiny, slot=300)
  with pytest.raises(ValueError, match='hops of'):
    dataclasses.replace(tiny, semantic=dataclasses.replace(tiny.semantic, ratios=(2, 2, 5)))
