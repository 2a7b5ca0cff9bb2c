"""Speech recognition and the interpretability of models (arXiv 2508.15882)."""

import runpy

_origin = runpy.run_path(f'{__path__[0]}/../core/launch/origin.py')
_origin['check_imports'](__name__)
