"""Edits between two texts, by word or by character."""

from collections.abc import Sequence

from core.audio.edits import Edits, aligned

MAX_CELLS = 200_000_000


def word_edits(reference: str, hypothesis: str) -> Edits:
  """Edits between texts split at blanks."""
  return edits(reference.split(), hypothesis.split())


def character_edits(reference: str, hypothesis: str) -> Edits:
  """Edits between the characters of two texts, blanks left out."""
  return edits(list(''.join(reference.split())), list(''.join(hypothesis.split())))


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> Edits:
  """Levenshtein alignment. Ties, from the end: match, substitution, deletion, insertion.

  The total is jiwer's. Its own split depends on the library that it uses, so the split is made here, except for
  pairs of more than 200 million cells.
  """
  import jiwer

  split = jiwer.ReduceToListOfListOfWords()
  whole = jiwer.process_words(' '.join(reference), ' '.join(hypothesis), split, split)
  if len(reference) * len(hypothesis) > MAX_CELLS:
    return Edits(whole.substitutions, whole.deletions, whole.insertions, len(reference))
  return aligned(reference, hypothesis)
