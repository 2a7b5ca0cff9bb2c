"""InternVL3.5-Flash: the router, the compact projector, and image tokens that differ from tile to tile."""
