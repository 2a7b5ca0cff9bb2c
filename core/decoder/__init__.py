"""The causal language model and its published files."""

from core.decoder.configs import CONFIGS
from core.decoder.hf import load, save, save_adapter
from core.decoder.model import Hidden, Output, apply, embed, forward, logits
from core.decoder.params import Config, Params, init, spec
from core.decoder.scoring import kl, log_probs

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
  'kl',
  'load',
  'log_probs',
  'logits',
  'save',
  'save_adapter',
  'spec',
]
