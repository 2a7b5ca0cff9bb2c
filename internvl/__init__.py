"""InternVL3.5: a vision-language model."""
