"""Command lines: config dataclasses, flags, one-line errors, distributed start."""
