"""Speech made on the spot by espeak-ng, and a small untrained model: enough to train every part of VibeVoice."""
