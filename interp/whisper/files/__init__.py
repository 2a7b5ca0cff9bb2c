"""Whisper's published files: Hugging Face in and out, OpenAI and CTranslate2 in."""
