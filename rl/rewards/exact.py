"""Exact answers."""


def exact_match(answer: str, reference: str) -> float:
  """1 when the answer is the reference, outer blanks and letter case aside; else 0."""
  return float(answer.strip().casefold() == reference.strip().casefold())
