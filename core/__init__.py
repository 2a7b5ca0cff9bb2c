"""What every model shares: parameters, meshes, layers, the decoder, training. Knows no system by name."""

import runpy

_origin = runpy.run_path(f'{__path__[0]}/../core/launch/origin.py')
_origin['check_imports'](__name__)

from core.version import __version__

__all__ = ['__version__']
