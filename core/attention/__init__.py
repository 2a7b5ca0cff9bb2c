"""Softmax attention for every model: one function, several implementations."""

from core.attention.keys import MASKED, Keys
from core.attention.multihead import attention
from core.attention.splash import key_copies

__all__ = ['MASKED', 'Keys', 'attention', 'key_copies']
