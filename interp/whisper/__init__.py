"""Whisper: speech recognition (arXiv 2212.04356)."""

from interp.whisper.config import CONFIGS, Config
from interp.whisper.files.checkpoint import load, save
from interp.whisper.model import Output, Params, apply, encode, init, spec
from interp.whisper.processor import Processor
from interp.whisper.transcription import transcribe

__all__ = [
  'CONFIGS',
  'Config',
  'Output',
  'Params',
  'Processor',
  'apply',
  'encode',
  'init',
  'load',
  'save',
  'spec',
  'transcribe',
]
