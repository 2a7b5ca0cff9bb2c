"""Text encoders of image models: CLIP's text tower and T5's encoder, with their tokenizers."""
