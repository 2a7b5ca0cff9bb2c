"""The scorer as CMPhysBench published it, for comparison."""
