"""What the layers of Whisper know and when they decide: the questions of arXiv 2508.15882 as one command."""
