"""Training losses of InternVL, as weighted sums (`core.training.steps.Loss`)."""

from internvl.losses import vico
from internvl.losses.batch import Batch
from internvl.losses.supervised import AVERAGING, ntp, token_weights

__all__ = ['AVERAGING', 'Batch', 'ntp', 'token_weights', 'vico']
