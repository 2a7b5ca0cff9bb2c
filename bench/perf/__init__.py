"""The project's own speed benches: ours against a peer or a limit, as ratios measured in one run."""
