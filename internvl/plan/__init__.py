"""What `python -m core.plan` compiles of InternVL: the training step and the engine."""
