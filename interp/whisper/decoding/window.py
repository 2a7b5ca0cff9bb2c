"""Windows to text: encoder once, then decoding at rising temperatures while the text looks wrong.

B windows   T mel frames
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from core import tap
from core.engine.sampling import Sampling
from interp.whisper import decoder, model
from interp.whisper.config import Config
from interp.whisper.decoding import rules as rules_lib
from interp.whisper.decoding.beam import beam
from interp.whisper.decoding.prefill import Prompt, pack, prefill
from interp.whisper.decoding.rules import Rules
from interp.whisper.decoding.sample import Decoded, sample
from interp.whisper.options import Options
from interp.whisper.processor import Processor


@dataclasses.dataclass(frozen=True)
class Result:
  """What a window says: tokens without the end, text, and the measures by which it was accepted."""

  tokens: tuple[int, ...]
  text: str
  temperature: float
  avg_logp: float
  no_speech: float
  compression: float

  def silent(self, options: Options) -> bool:
    """Whether the window counts as silence."""
    if options.no_speech is None or self.no_speech <= options.no_speech:
      return False
    return options.logp is None or self.avg_logp <= options.logp


@functools.partial(jax.jit, static_argnames='config')
def audio_keys(params: model.Params, config: Config, mel: jax.Array, edit: Callable | None = None) -> tuple:
  """The decoder's `cross_keys` of log-mel windows [B, T, mels]."""
  encoded, _ = model.encode(params, config, mel, edit=edit)
  return decoder.cross_keys(params.decoder, encoded)


class Recogniser:
  """A model ready to decode windows. edit: as in `core.tap`, in encoder and decoder, at every step."""

  def __init__(
    self,
    params: model.Params,
    config: Config,
    processor: Processor,
    options: Options,
    edit: Callable | None = None,
  ):
    self.params = params.replace(decoder=decoder.for_decoding(params.decoder))
    self.config = config
    self.processor = processor
    self.options = options
    self.edit = tap.as_argument(edit)
    self.rules: Rules = rules_lib.of(processor, config.vocab, name=options.rules, timestamps=options.timestamps)
    self.limit = config.text_length // 2 if options.tokens is None else options.tokens
    if self.limit >= config.text_length:
      raise ValueError(f'tokens={self.limit}: the text context is {config.text_length}')

  def edited(self, edit: Callable | None) -> 'Recogniser':
    """The same with another edit; one that is a pytree compiles nothing if its shapes have been seen."""
    other = copy.copy(self)
    other.edit = tap.as_argument(edit)
    return other

  def keys(self, mels: np.ndarray) -> tuple:
    """The `decoder.cross_keys` of windows [B, T, mels]: the encoder runs here, once for a window."""
    return audio_keys(self.params, self.config, jnp.asarray(mels), self.edit)

  def language(self, keys: tuple) -> list[str]:
    """The most probable language of each window; 'en' of an English-only model."""
    codes = list(self.processor.languages)
    ids = list(self.processor.languages.values())
    rows = keys[0][0].shape[0]
    if not ids:
      return ['en'] * rows
    prompt = pack([[self.processor.ids.sot]] * rows, self.processor.ids.sot)
    best = np.asarray(_language(self.params.decoder, self.config, keys, prompt, jnp.asarray(ids), self.edit))
    return [codes[i] for i in best]

  def __call__(self, keys: tuple, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Result]:
    """The text of each window after its prompt. seeds: of sampling, one a window."""
    accepted: list[Result | None] = [None] * len(prompts)
    prompt = pack(list(prompts), self.processor.ids.sot)
    for temperature in self.options.temperatures:
      # All windows are decoded again, so that the shapes stay; those accepted before keep their text.
      results = self._at(temperature, keys, prompt, seeds)
      wrong = False
      for i, result in enumerate(results):
        previous = accepted[i]
        if previous is None or self._rejects(previous):
          accepted[i] = result
          wrong = wrong or self._rejects(result)
      if not wrong:
        break
    return [result for result in accepted if result is not None]

  def _rejects(self, result: Result) -> bool:
    """Whether a text calls for another try at a higher temperature."""
    o = self.options
    if o.no_speech is not None and o.logp is not None and result.no_speech > o.no_speech and result.avg_logp < o.logp:
      return False
    repeats = o.compression is not None and result.compression > o.compression
    improbable = o.logp is not None and result.avg_logp < o.logp
    return repeats or improbable

  def _at(self, temperature: float, keys, prompt: Prompt, seeds: Sequence[int]) -> list[Result]:
    o = self.options
    no_speech = self.processor.ids.no_speech
    shared = {'new': self.limit, 'no_speech': no_speech, 'edit': self.edit}
    params = self.params.decoder
    copies = 1
    if temperature == 0 and o.beams > 1:
      search = {'beams': o.beams, 'patience': o.patience, 'penalty': o.length_penalty, 'style': o.rules}
      decoded = beam(params, self.config, keys, prompt, self.rules, **search, **shared)
    else:
      copies = o.best_of if temperature > 0 else 1
      prompt = jax.tree.map(lambda x: jnp.repeat(x, copies, 0), prompt)
      rows_seeds = [seed * copies + i for seed in seeds for i in range(copies)]
      sampling = Sampling.of(len(rows_seeds), temperature=temperature, seed=rows_seeds)
      decoded = sample(params, self.config, keys, prompt, self.rules, sampling, **shared)
    return self._results(decoded, temperature, copies)

  def _results(self, decoded: Decoded, temperature: float, copies: int) -> list[Result]:
    """The best of each window's `copies` rows, by log-probability over length."""
    host = jax.tree.map(np.asarray, decoded)
    score = host.logp / np.maximum(host.count, 1)
    within = score.reshape(-1, copies).argmax(1)
    best = within + copies * np.arange(len(within))
    return [self._result(host, row, temperature) for row in best]

  def _result(self, host: Decoded, row: int, temperature: float) -> Result:
    count = int(host.count[row])
    tokens = tuple(int(t) for t in host.tokens[row, :count])
    text = self.processor.text(tokens)
    if self.options.rules == 'openai':
      compression = rules_lib.text_compression(text.strip())
      length = count + 1
    else:
      compression = rules_lib.token_compression(tokens)
      length = max(count + int(host.ended[row]), 1)
    return Result(
      tokens=tokens,
      text=text,
      temperature=temperature,
      avg_logp=float(host.logp[row]) / length,
      no_speech=float(host.no_speech[row]),
      compression=compression,
    )


@functools.partial(jax.jit, static_argnames='config')
def _language(params, config: Config, keys, prompt: Prompt, ids, edit) -> jax.Array:
  logits, _, _ = prefill(params, config, keys, prompt, new=1, edit=edit)
  return jnp.argmax(logits[:, ids], -1)
