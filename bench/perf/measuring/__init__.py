"""What measurements share: one pinned thread, interleaved arms, rates of this machine, peers, and rows of figures."""
