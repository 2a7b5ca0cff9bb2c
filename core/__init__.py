"""What every model shares: parameters, meshes, layers, the decoder, training. Knows no system by name."""
