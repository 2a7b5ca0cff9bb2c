"""Words and their times."""

import dataclasses
import string
from typing import Any

import jax
import numpy as np

from core.audio import Segment, Word
from core.files.tokenizers import REPLACEMENT
from interp.whisper import alignment
from interp.whisper.config import STRIDE
from interp.whisper.processor import TIMESTAMPS_A_SECOND, Processor

UNSPACED = ('zh', 'ja', 'th', 'lo', 'my', 'yue')  # languages written without spaces
BEFORE = '"\'“¿([{-'  # marks that belong to the next word
AFTER = '"\'.。,，!！?？:：”)]}、'  # and to the previous one
SENTENCE_ENDS = '.。!！?？'
LONGEST_MEDIAN = 0.7  # seconds


def characters(tokens: list[int], processor: Processor) -> list[list[int]]:
  """Tokens in groups that are whole characters."""
  whole = processor.text(tokens)
  groups: list[list[int]] = []
  current: list[int] = []
  at = 0
  for token in tokens:
    current.append(token)
    text = processor.text(current)
    broken = text.find(REPLACEMENT)
    # A replacement character may be meant: then the whole text has it at this place too.
    if broken < 0 or whole[at + broken : at + broken + 1] == REPLACEMENT:
      groups.append(current)
      at += len(text)
      current = []
  if current:
    return [*groups, current]
  return groups


def split(tokens: list[int], processor: Processor, language: str) -> list[list[int]]:
  """Tokens in groups that are words; punctuation is a word of its own."""
  groups = characters(tokens, processor)
  if language in UNSPACED:
    return groups
  words: list[list[int]] = []
  for group in groups:
    text = processor.text(group)
    if not words or text.startswith(' ') or text.strip() in string.punctuation:
      words.append(list(group))
    else:
      words[-1] += group
  return words


def timed(r: Any, keys: tuple, segments: list[Segment], language: str, *, frames: int, offset: float) -> list[Segment]:
  """Segments of one window, of `frames` mel frames from `offset` seconds on, with their words (openai/whisper).

  r: the `decoding.window.Recogniser`. keys: the decoder's `cross_keys` of the window.
  """
  eot = r.processor.ids.eot
  texts = [[t for t in s.tokens if t < eot] for s in segments]
  tokens = [t for text in texts for t in text]
  if not tokens:
    return segments
  words = _words(r, keys, tokens, language, frames=frames)
  placed = [dataclasses.replace(w, start=w.start + offset, end=w.end + offset) for w in words]
  groups = split(tokens, r.processor, language)
  return _shared_out(segments, texts, groups, _capped(placed))


def _words(r: Any, keys, tokens: list[int], language: str, *, frames: int) -> list[Word]:
  """Each group of `split` as a word with times from the start of the window."""
  processor = r.processor
  prompt = processor.prompt(language=language, task=r.options.task, timestamps=True)
  before = [*prompt, processor.ids.no_timestamps]
  heads = processor.alignment_heads or alignment.default_heads(r.config)
  row = [*before, *tokens, processor.ids.eot]
  scores, logp = alignment.attention(r.params.decoder, r.config, keys, row, heads)
  weights = alignment.softmax(scores[:, :, : max(frames // STRIDE, 1)])
  # The row of each token is that of the one before it, which attends to what it predicts.
  matrix = alignment.sharpness(weights)[len(prompt) : -1]
  starts = alignment.starts(matrix) / TIMESTAMPS_A_SECOND
  probabilities = np.exp(logp[len(prompt) :])
  words = []
  at = 0
  for group in split(tokens, processor, language):
    end = at + len(group)
    likely = float(np.mean(probabilities[at:end]))
    words.append(Word(processor.text(group), float(starts[at]), float(starts[end]), likely))
    at = end
  return words


def _capped(words: list[Word]) -> list[Word]:
  """Words at the ends of sentences are not longer than twice the median: pauses are not speech."""
  durations = [w.end - w.start for w in words if w.end > w.start]
  if not durations:
    return words
  longest = 2 * min(float(np.median(durations)), LONGEST_MEDIAN)
  out = words[:1]
  for word in words[1:]:
    if word.end - word.start > longest:
      if word.text.strip() and word.text in SENTENCE_ENDS:
        word = dataclasses.replace(word, end=word.start + longest)
      elif out[-1].text and out[-1].text in SENTENCE_ENDS:
        word = dataclasses.replace(word, start=word.end - longest)
    out.append(word)
  return out


def _shared_out(segments, texts, groups, words: list[Word]) -> list[Segment]:
  """Each segment with the words that begin in it, punctuation attached."""
  out = []
  at = 0
  next_word = 0
  sizes = [len(group) for group in groups]
  for segment, text in zip(segments, texts):
    end = at + len(text)
    taken = []
    while next_word < len(words) and sum(sizes[:next_word]) < end:
      taken.append(words[next_word])
      next_word += 1
    out.append(dataclasses.replace(segment, words=tuple(joined(taken))))
    at = end
  return out


def joined(words: list[Word]) -> list[Word]:
  """Words with the marks before and after them."""
  backward: list[Word] = []
  for word in reversed(words):
    if backward and word.text.startswith(' ') and word.text.strip() and word.text.strip() in BEFORE:
      following = backward.pop()
      word = dataclasses.replace(following, text=word.text + following.text, start=word.start)
    backward.append(word)
  out: list[Word] = []
  for word in reversed(backward):
    if out and word.text and word.text in AFTER and not out[-1].text.endswith(' '):
      last = out[-1]
      word = dataclasses.replace(last, text=last.text + word.text, end=max(last.end, word.end))
      out.pop()
    out.append(word)
  return out


def row(keys: tuple, index: int) -> tuple:
  """The `cross_keys` of one window of a batch, unstacked."""
  return jax.tree.map(lambda x: x[index : index + 1], keys)
