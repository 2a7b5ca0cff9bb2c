"""What a response is worth: named rewards, a user's own functions, and arrays of them computed under a guard."""

from rl.rewards.length import Length, overlong, without_cut
from rl.rewards.registry import REWARDS, Check, Name, Reward, resolve
from rl.rewards.scorer import Scored, Scorer
from rl.rewards.symbolic import boxed_symbolic
from rl.rewards.verify import boxed, boxed_and_format, exact_match, think_format

__all__ = [
  'REWARDS',
  'Check',
  'Length',
  'Name',
  'Reward',
  'Scored',
  'Scorer',
  'boxed',
  'boxed_and_format',
  'boxed_symbolic',
  'exact_match',
  'overlong',
  'resolve',
  'think_format',
  'without_cut',
]
