"""The autoencoder between images and latents (AutoencoderKL of SD3 and FLUX.1)."""

from rl.flow.vae.config import CONFIGS, Config
from rl.flow.vae.model import decode, encode, moments
from rl.flow.vae.params import Params, init, spec

__all__ = ['CONFIGS', 'Config', 'Params', 'decode', 'encode', 'init', 'moments', 'spec']
