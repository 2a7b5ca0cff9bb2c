"""What `python -m core.plan` compiles of VibeVoice: the training step and the frame step."""
