"""Pref-GRPO of a published text-to-image folder: the transformer learns, and everything around it is frozen."""
