"""What an answer is worth: verifiers."""

from rl.rewards.exact import exact_match

__all__ = ['exact_match']
