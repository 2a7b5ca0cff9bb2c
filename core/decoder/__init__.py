"""The causal language model and its published files."""

from core.decoder.configs import CONFIGS
from core.decoder.hf import load, save
from core.decoder.model import (
  Config,
  Hidden,
  Output,
  Params,
  apply,
  embed,
  forward,
  init,
  log_probs,
  logits,
  spec,
)

__all__ = [
  'CONFIGS',
  'Config',
  'Hidden',
  'Output',
  'Params',
  'apply',
  'embed',
  'forward',
  'init',
  'load',
  'log_probs',
  'logits',
  'save',
  'spec',
]
