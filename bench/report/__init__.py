"""What a benchmark leaves for people: summaries, charts, pages."""
