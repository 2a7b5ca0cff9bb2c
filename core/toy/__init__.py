"""Small tasks made from real handwritten digits, for default jobs, tests and notebooks."""
