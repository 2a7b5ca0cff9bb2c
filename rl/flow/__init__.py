"""Text-to-image flow models: transformers, autoencoder, text encoders, sampling."""
