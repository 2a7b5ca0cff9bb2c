"""What an answer is worth: verifiers, length, and a guard around functions that may fail."""

from rl.rewards.guard import Guard, Rewards
from rl.rewards.length import overlong
from rl.rewards.symbolic import boxed_symbolic
from rl.rewards.verify import boxed, boxed_and_format, exact_match, think_format

__all__ = ['Guard', 'Rewards', 'boxed', 'boxed_and_format', 'boxed_symbolic', 'exact_match', 'overlong', 'think_format']
