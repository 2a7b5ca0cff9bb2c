"""From conversations with images and videos to token ids and tiles."""
