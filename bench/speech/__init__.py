"""Speech: recognition (WER, CER, cpWER, tcpWER, DER) and synthesis (the Seed-TTS protocol)."""

from bench.speech.tasks import asr, tts

__all__ = ['asr', 'tts']
