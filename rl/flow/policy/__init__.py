"""A text-to-image flow model as learning sees it: a denoising step is what a token is to a language model."""

from rl.flow.policy.engine import PathEngine
from rl.flow.policy.options import PathOptions
from rl.flow.policy.plan import Paths
from rl.flow.policy.policy import FlowPolicy
from rl.flow.policy.trajectory import FlowInputs, FlowPrompt, FlowTrajectory

__all__ = ['FlowInputs', 'FlowPolicy', 'FlowPrompt', 'FlowTrajectory', 'PathEngine', 'PathOptions', 'Paths']
