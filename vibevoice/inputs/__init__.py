"""What the models read: scripts, voices and text."""
