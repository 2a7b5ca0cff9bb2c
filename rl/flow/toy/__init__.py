"""A text-to-image task small enough for a CPU: scans of handwritten digits, with attributes that are measured."""
