"""Search questions and assistant questions, each with one short answer, and their published scorers."""
