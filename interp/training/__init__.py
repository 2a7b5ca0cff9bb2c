"""Training of a small Whisper from scratch on speech of espeak-ng."""
