"""A report of what a Whisper model does with a recording."""

from interp.report.page import html, write
from interp.report.window import Study, study

__all__ = ['Study', 'html', 'study', 'write']
