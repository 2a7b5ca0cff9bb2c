"""Speech over HTTP: `python -m vibevoice.serve`."""
