"""Isolated Python at a hundred calls a second: warm forks of a preloaded interpreter, shut in by the kernel."""

from agents.sandbox.limits import STATUSES, HarnessError, Limits, Result
from agents.sandbox.pool import Caller, Pool, Session
from agents.sandbox.profiles import PROFILES

__all__ = ['PROFILES', 'STATUSES', 'Caller', 'HarnessError', 'Limits', 'Pool', 'Result', 'Session']
