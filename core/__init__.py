"""What every model shares: parameters, meshes, layers, the decoder, training. Knows no system by name."""

from core.version import __version__

__all__ = ['__version__']
