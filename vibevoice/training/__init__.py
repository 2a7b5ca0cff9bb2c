"""Training of TTS models: rows of prompt and speech, and batches of them."""
