"""Recipes of `rl.train` against their controls: each arm at its own best learning rate, over seeds, with intervals."""
