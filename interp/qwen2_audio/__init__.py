"""Qwen2-Audio: a Whisper encoder whose output enters a language model in place of its embeddings (arXiv 2407.10759)."""

from interp.qwen2_audio.checkpoint import load, save
from interp.qwen2_audio.config import CONFIGS, Config
from interp.qwen2_audio.generation import generate
from interp.qwen2_audio.model import SITES, Params, apply, audio, init, spec

__all__ = ['CONFIGS', 'SITES', 'Config', 'Params', 'apply', 'audio', 'generate', 'init', 'load', 'save', 'spec']
