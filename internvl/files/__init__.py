"""Published folders of InternVL: tensor names and config.json of each layout, in and out."""
