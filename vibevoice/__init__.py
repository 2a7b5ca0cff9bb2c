"""VibeVoice: long speech from scripts (arXiv 2508.19205), and its streaming sibling Realtime."""

from vibevoice.config import CONFIGS, Config, HeadConfig, RealtimeConfig, TokenizerConfig

__all__ = [
  'CONFIGS',
  'Config',
  'HeadConfig',
  'RealtimeConfig',
  'TokenizerConfig',
]
