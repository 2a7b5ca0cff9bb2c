"""MMDiT, the transformer of rectified-flow image models: SD3 (arXiv 2403.03206), SD3.5 and FLUX.1 by configuration."""

from rl.flow.mmdit.config import CONFIGS, Config
from rl.flow.mmdit.model import SITES, Output, apply
from rl.flow.mmdit.params import Params, init, spec

__all__ = ['CONFIGS', 'SITES', 'Config', 'Output', 'Params', 'apply', 'init', 'spec']
