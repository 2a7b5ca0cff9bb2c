"""Judges of two images: a chat server, CLIP's similarity; each a function (prompt, first, second) -> verdict."""
