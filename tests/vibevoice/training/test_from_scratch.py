"""Training from scratch: acoustic tokenizer, semantic tokenizer, speech."""

import dataclasses
import json

import numpy as np
import pytest

import vibevoice
from vibevoice import train, train_tokenizer
from vibevoice.toy import base, digits
from vibevoice.training import configs, tokenizer_configs

THIN = {'filters': 2, 'depths': (0, 1, 1, 1)}


@pytest.mark.slow
def test_folders_lead_from_random_weights_to_a_model_that_speaks(tmp_path, monkeypatch):
  monkeypatch.setattr(base, 'ACOUSTIC', dataclasses.replace(base.ACOUSTIC, **THIN))
  monkeypatch.setattr(base, 'SEMANTIC', dataclasses.replace(base.SEMANTIC, **THIN))
  digits.write(tmp_path / 'data', train=2, heldout=1)
  data = (str(tmp_path / 'data' / 'train.jsonl'),)
  common = {'data': data, 'batch': 2, 'steps': 2}

  def trained(name: str, c, main) -> tuple:
    main(c, tmp_path / name)
    return vibevoice.load(tmp_path / name / 'model', dtype=None)

  first = tokenizer_configs.CONFIGS['tiny']
  config, acoustic = trained('acoustic', dataclasses.replace(first, **common), train_tokenizer.main)
  assert config.acoustic.hop == 1600 and float(acoustic.scaling.scale) != 1
  second = tokenizer_configs.CONFIGS['tiny-semantic']
  second = dataclasses.replace(second, model=str(tmp_path / 'acoustic' / 'model'), **common)
  _, semantic = trained('semantic', second, train_tokenizer.main)
  third = dataclasses.replace(configs.CONFIGS['tiny'], model=str(tmp_path / 'semantic' / 'model'), **common)
  _, spoken = trained('speech', third, train.main)

  def weight(tower):
    return np.asarray(tower.stages[0].conv.weight)

  assert (weight(acoustic.acoustic.encoder) == weight(spoken.acoustic.encoder)).all()
  assert (weight(acoustic.semantic.encoder) != weight(semantic.semantic.encoder)).any()
  assert (weight(semantic.semantic.encoder) == weight(spoken.semantic.encoder)).all()
  assert (np.asarray(semantic.language.embed) != np.asarray(spoken.language.embed)).any()

  def metrics(name: str) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / name / 'metrics.jsonl').read_text().splitlines()]

  assert not any(m['skipped'] for name in ('acoustic', 'semantic', 'speech') for m in metrics(name))
  for m in metrics('speech'):
    assert m['loss'] == pytest.approx(m['ce'] + m['diffusion'], rel=1e-6)
