"""The state of the sequences in slots, as arrays with a row for each slot: a step updates all rows at once."""

import numpy as np

from core.engine.scheduling.prefix_cache import NAME
from core.engine.scheduling.sequence import Response, Sequence


class Rows:
  """Arrays of R slots; a slot without a sequence has `wanted` 0, and the rest of its row means nothing.

  All tokens of a decoding sequence but the last are in its pages; the last one is the next step's input. int32:

  prompt, new, wanted [R]: tokens of the prompt, of the response so far, and of the response at most. filled [R]:
  leading tokens whose keys and values are in pages. table [R, longest] and pages [R]: the block table of each slot and
  the number of its pages. tokens, logp (float32), version [R, longest * page_size]: of the responses. Untouched parts
  of an array take no memory.
  """

  def __init__(self, slots: int, longest: int, page_size: int):
    self.prompt = np.zeros(slots, np.int32)
    self.new = np.zeros(slots, np.int32)
    self.wanted = np.zeros(slots, np.int32)
    self.filled = np.zeros(slots, np.int32)
    self.pages = np.zeros(slots, np.int32)
    self.table = np.zeros((slots, longest), np.int32)
    self._responses = np.zeros((slots, 3, longest * page_size), np.int32)  # one array, so that one call copies a slot's
    self.tokens = self._responses[:, 0]
    self.version = self._responses[:, 2]
    self.logp = self._responses[:, 1].view(np.float32)

  @property
  def target(self) -> np.ndarray:
    """int32 [R]: tokens that must be in pages before a sequence decodes, all but its last."""
    return self.prompt + self.new - 1

  @property
  def ready(self) -> np.ndarray:
    """bool [R]: which slots can decode: they want more tokens, and all tokens but the last are in pages."""
    wants_more = self.new < self.wanted
    is_filled = self.filled == self.target
    return wants_more & is_filled

  def is_ready(self, slot: int) -> bool:
    """Whether one slot can decode."""
    target = self.prompt.item(slot) + self.new.item(slot) - 1
    return self.filled.item(slot) == target

  def count(self, sequence: Sequence) -> int:
    """Tokens of the response of a waiting or running sequence so far."""
    if sequence.slot is None:
      return len(sequence.response.tokens)
    return self.new.item(sequence.slot)

  def length(self, sequence: Sequence) -> int:
    """Tokens of a sequence so far, prompt included."""
    return sequence.prompt.length + self.count(sequence)

  def response(self, sequence: Sequence) -> Response:
    """The response so far; valid until the next step."""
    slot = sequence.slot
    if slot is None:
      return sequence.response
    new = self.new.item(slot)
    tokens = self.tokens[slot, :new]
    logp = self.logp[slot, :new]
    version = self.version[slot, :new]
    return Response(tokens, logp, version)

  def names(self, sequence: Sequence, start: int, stop: int) -> np.ndarray:
    """The names of tokens start..stop-1, int64."""
    prompt = sequence.prompt.names
    known = len(prompt)
    if stop <= known:
      return prompt[start:stop]
    first = max(start - known, 0)
    tokens = self.response(sequence).tokens
    new = tokens[first : stop - known].astype(np.int64)
    if start >= known:
      return new
    return np.concatenate([prompt[start:known], new])

  def content(self, sequence: Sequence, start: int, stop: int) -> bytes:
    """The names of tokens start..stop-1 as the prefix cache takes them."""
    prompt = sequence.prompt
    known = prompt.content[start * NAME : stop * NAME]
    if stop <= prompt.length:
      return known
    tokens = sequence.response.tokens
    if sequence.slot is not None:
      tokens = self.tokens[sequence.slot]
    first = max(start - prompt.length, 0)
    new = tokens[first : stop - prompt.length].astype(np.int64)
    return known + new.tobytes()

  def enter(self, slot: int, sequence: Sequence) -> None:
    """Puts a sequence into an empty slot, without pages."""
    sequence.slot = slot
    response = sequence.response
    known = len(response.tokens)
    self.prompt[slot] = sequence.prompt.length
    self.wanted[slot] = known if sequence.ended else sequence.request.max_new
    self.new[slot] = known
    self.filled[slot] = 0
    self.pages[slot] = 0
    if known:
      self.tokens[slot, :known] = response.tokens
      self.logp[slot, :known] = response.logp
      self.version[slot, :known] = response.version

  def end(self, sequence: Sequence) -> None:
    """Stops a sequence in a slot from decoding further."""
    self.wanted[sequence.slot] = self.new[sequence.slot]

  def leave(self, sequence: Sequence) -> None:
    """Takes a sequence out of its slot; it keeps its response."""
    slot = sequence.slot
    new = self.new.item(slot)
    tokens, logp, version = self._responses[slot, :, :new].copy()
    sequence.response = Response(tokens, logp.view(np.float32), version)
    sequence.slot = None
    self.wanted[slot] = 0  # which makes the rest of the row meaningless

  def add_pages(self, more: np.ndarray, fresh: np.ndarray) -> None:
    """Gives each slot `more` [R] further pages, taken in turn from `fresh` [sum of more]."""
    slots = np.repeat(np.arange(len(more)), more)
    first = np.cumsum(more) - more  # of each slot's pages among the fresh ones
    index = np.arange(len(fresh)) - np.repeat(first, more)
    place = self.pages[slots] + index
    self.table[slots, place] = fresh
    self.pages += more

  def append(
    self, slots: np.ndarray, tokens: np.ndarray, logp: np.ndarray, kept: np.ndarray, written: np.ndarray, version: int
  ) -> None:
    """Adds the first `kept` [n] of the tokens and log-probabilities [n, S] to n different slots.

    written: [n], tokens of the segment that were decoding inputs, and so are in the pages.
    """
    _, kinds, width = self._responses.shape
    step = np.arange(tokens.shape[1])
    taken = step < kept[:, None]
    # Indices of flat memory: several times as fast as pairs of indices.
    first = slots * kinds * width + self.new[slots]
    places = first[:, None] + step
    at = places[taken]
    flat = self._responses.reshape(-1)
    flat_logp = flat.view(np.float32)
    flat[at] = tokens[taken]
    flat_logp[at + width] = logp[taken]
    flat[at + 2 * width] = version
    self.new[slots] += kept.astype(np.int32)
    filled = self.filled[slots] + written
    self.filled[slots] = np.minimum(filled, self.target[slots])
