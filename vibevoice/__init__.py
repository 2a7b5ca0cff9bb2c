"""VibeVoice: long speech from scripts (arXiv 2508.19205), and its streaming sibling Realtime."""

import runpy

_origin = runpy.run_path(f'{__path__[0]}/../core/launch/origin.py')
_origin['check_imports'](__name__)

from vibevoice.config import CONFIGS, Config, HeadConfig, RealtimeConfig, TokenizerConfig
from vibevoice.files.checkpoint import load, save, save_adapter
from vibevoice.inputs.processor import Inputs, Processor, RealtimeProcessor
from vibevoice.model import Output, Params, apply, init, spec
from vibevoice.synthesis import synthesize

__all__ = [
  'CONFIGS',
  'Config',
  'HeadConfig',
  'Inputs',
  'Output',
  'Params',
  'Processor',
  'RealtimeConfig',
  'RealtimeProcessor',
  'TokenizerConfig',
  'apply',
  'init',
  'load',
  'save',
  'save_adapter',
  'spec',
  'synthesize',
]
