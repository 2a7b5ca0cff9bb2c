"""The tokenizers: audio to one vector a frame, and latents back to audio."""

from vibevoice.tokenizer.codec import Params, decode, encode, frames, noised, sample, spec

__all__ = ['Params', 'decode', 'encode', 'frames', 'noised', 'sample', 'spec']
