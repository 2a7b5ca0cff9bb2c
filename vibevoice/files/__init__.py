"""Published folders of VibeVoice: tensor names and config.json of each layout, in and out."""
