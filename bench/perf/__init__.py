"""The project's own speed measurements."""
