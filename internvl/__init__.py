"""InternVL3.5: a vision-language model (arXiv 2508.18265)."""

import runpy

_origin = runpy.run_path(f'{__path__[0]}/../core/launch/origin.py')
_origin['check_imports'](__name__)

from internvl.configs import CONFIGS
from internvl.conversation import chat, for_decoding
from internvl.files.checkpoint import load, save, save_adapter
from internvl.inputs.processor import Inputs, Processor
from internvl.model import Config, Output, Params, apply, init, spec
from internvl.prefix_cache import PrefixCache

__all__ = [
  'CONFIGS',
  'Config',
  'Inputs',
  'Output',
  'Params',
  'PrefixCache',
  'Processor',
  'apply',
  'chat',
  'for_decoding',
  'init',
  'load',
  'save',
  'save_adapter',
  'spec',
]
