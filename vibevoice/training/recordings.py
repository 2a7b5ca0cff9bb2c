"""From recordings and scripts on disk to rows of training. Tokenizers are frozen: they run here, not in the step.

F frames   n samples
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from core import padding
from core.audio import loudness, read
from core.training.data import DataError, JsonLines
from vibevoice import model, scaling, tokenizer
from vibevoice.config import SAMPLE_RATE, TokenizerConfig
from vibevoice.inputs import script
from vibevoice.inputs.processor import Processor
from vibevoice.inputs.prompt import Prompt
from vibevoice.training import losses, rows, stages
from vibevoice.training.configs import Config
from vibevoice.training.stages import Stage

KEYS = ('script', 'audio', 'voices')
BEFORE, FADE, AFTER = 0.25, 0.25, 0.75  # seconds around a recording: silence, fades inside it, silence
# Exact silence stays zero in every layer, and each norm multiplies its gradient by 1 / √eps: it would overflow.
DITHER = 1e-3  # deviation of the noise under each recording, -60 dBFS
SHORTEST_PROMPT = 5.0  # seconds, or a quarter of the recording
SMALLEST_BUCKET = 64  # frames
ENDING = 2  # tokens after the speech: END and EOS


@dataclasses.dataclass(frozen=True)
class Recording:
  """One line of a data file, which `place` names; `voices` may be empty."""

  script: str
  audio: pathlib.Path
  voices: tuple[pathlib.Path, ...]
  place: str


def listed(paths: Sequence[str]) -> list[Recording]:
  """The recordings of JSONL files. Raises DataError naming file and line for a line that is not one."""
  sources = [JsonLines(path) for path in paths]
  return [_recording(source, i) for source in sources for i in range(len(source))]


def _recording(source: JsonLines, index: int) -> Recording:
  record = source[index]
  place = source.place(index)
  unknown = sorted(set(record) - set(KEYS))
  if unknown:
    raise DataError(f'{place}: unknown keys {unknown}; expected {list(KEYS)}')
  spoken = record.get('script')
  audio = record.get('audio')
  voices = record.get('voices', [])
  if not isinstance(spoken, str) or not isinstance(audio, str) or not isinstance(voices, list):
    raise DataError(f'{place}: expected a script and an audio file as strings, and voices as a list of files')
  folder = pathlib.Path(source.path).parent
  return Recording(spoken, folder / audio, tuple(folder / voice for voice in voices), place)


def wrapped(samples: np.ndarray, silence: float = 1.0) -> np.ndarray:
  """Samples [n] at 24 kHz faded in and out between two silences; 1 is as long as the public trainer has them."""
  fade = min(round(silence * FADE * SAMPLE_RATE), len(samples) // 2)
  ramp = np.arange(fade, dtype=np.float32) / max(fade, 1)
  faded = samples.copy()
  faded[:fade] *= ramp
  faded[len(faded) - fade :] *= ramp[::-1]
  before = round(silence * BEFORE * SAMPLE_RATE)
  after = round(silence * AFTER * SAMPLE_RATE)
  return np.pad(faded, (before, after))


def dithered(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Samples float32 [...] with the noise of a quiet room under them."""
  return wav + DITHER * rng.standard_normal(wav.shape, np.float32)


def cropped(samples: np.ndarray, rng: np.random.Generator, longest: float) -> np.ndarray:
  """A random piece of samples [n], as a voice prompt.

  It takes at least 5 s, or a quarter of a short recording, and at most `longest` seconds, or half of the recording.
  """
  seconds = len(samples) / SAMPLE_RATE
  most = min(longest, seconds / 2)
  least = min(SHORTEST_PROMPT, seconds / 4, most)
  drawn = rng.uniform(least, most)
  size = max(1, round(drawn * SAMPLE_RATE))
  start = rng.integers(len(samples) - size + 1)
  return samples[start : start + size]


class Rows:
  """Rows by number, without end: number n is of the pass n // len(recordings), reshuffled for each.

  stages: of the config's curriculum; in all but the last, rows are of the recordings that fit.
  """

  def __init__(self, c: Config, recordings: Sequence[Recording], processor: Processor, params: model.Params):
    """params: the tokenizers and scaling are used. Raises ValueError for a stage that no recording fits, and DataError,
    naming file and line, for a recording whose header or script cannot be read, if there are several stages."""
    self.c = c
    self.recordings = recordings
    self.processor = processor
    self.config = processor.config
    self.params = params
    self.stages = stages.listed(c.curriculum, steps=c.steps, length=c.length, frames=c.frames)
    self._recordings = {stage: self._fitting(stage) for stage in self.stages}
    # The sampled noise differs each time; the means do not, and they are what takes time.
    self._speech_means = functools.lru_cache(c.cached)(self._speech_means)

  def batch(self, step: int) -> losses.Batch:
    """The batch of a step, which depends on the config's seed and the step alone."""
    c = self.c
    running = (stage for stage in self.stages if step < stage.end)
    stage = next(running, self.stages[-1])
    first = step * c.batch
    made = [self.row(n, stage) for n in range(first, first + c.batch)]
    return rows.batch(self.config, made, length=stage.length, frames=stage.frames, slots=c.slot_labels)

  def row(self, n: int, stage: Stage | None = None) -> rows.Row:
    """Row number n of a stage, by default the last. Raises DataError, naming file and line, for a recording that cannot
    be read or is too long."""
    stage = stage or self.stages[-1]
    chosen = self._recordings[stage]
    passes, index = divmod(n, len(chosen))
    rng = np.random.default_rng((self.c.seed, passes))
    order = rng.permutation(len(chosen))
    recording = chosen[order[index]]
    try:
      made = self._row(recording, n)
      rows.check_fits('the recording', made, length=stage.length, frames=stage.frames)
    except (OSError, ValueError) as error:
      raise DataError(f'{recording.place}: {error}') from error
    return made

  def _fitting(self, stage: Stage) -> Sequence[Recording]:
    """All of them in the last stage, in earlier ones those that fit. Raises ValueError if none does."""
    if stage == self.stages[-1]:
      return self.recordings
    fitting = []
    for recording in self.recordings:
      tokens, frames = self._most(recording)
      if tokens <= stage.length and frames <= stage.frames:
        fitting.append(recording)
    if not fitting:
      raise ValueError(f'curriculum: no recording fits {stage.length} tokens with {stage.frames} frames')
    return fitting

  def _most(self, recording: Recording) -> tuple[int, int]:
    """(tokens, frames) that a row of a recording takes at most, by the headers of its files.

    Raises DataError, naming file and line, for a file that cannot be opened and for a bad script.
    """
    try:
      lines = script.parse(recording.script)
      seconds = _seconds(recording.audio)
      voices = [_seconds(path) for path in recording.voices]
      if not voices and _has_one_speaker(lines):
        voices = [min(self.c.max_prompt_seconds, seconds / 2)]
      clips = [_silence(math.ceil(length * SAMPLE_RATE) + 1) for length in voices]
      plan = self.processor.plan(lines, clips)
    except (OSError, ValueError) as error:
      raise DataError(f'{recording.place}: {error}') from error
    around = self.c.silence * (BEFORE + AFTER)
    samples = (seconds + around) * SAMPLE_RATE
    speech = math.ceil(samples / self.config.acoustic.hop) + 1
    return plan.prompt + speech + ENDING, plan.voices + speech

  def _row(self, recording: Recording, n: int) -> rows.Row:
    c = self.c
    rng = np.random.default_rng((c.seed, n, 1))
    lines = script.parse(recording.script)
    kind = rng.uniform()
    bare = kind < c.bare
    voices = []
    if kind >= c.bare + c.drop_voices:
      voices = self._voices(recording, lines, rng)
    inputs = self.processor(lines, voices)
    key = jax.random.fold_in(jax.random.key(c.seed), n)
    speech_key, *voice_keys = jax.random.split(key, len(inputs.voices) + 1)
    voice_latents = []
    voice_semantic = []
    for clip, voice_key in zip(inputs.voices, voice_keys):
      latents, semantic = self._noised(self._means(clip), voice_key)
      voice_latents.append(latents)
      voice_semantic.append(semantic)
    latents, semantic = self._noised(self._speech_means(recording.audio), speech_key)
    example = rows.Example(
      prompt=Prompt(inputs.tokens, inputs.slots),
      voices=_joined(voice_latents, self.config.acoustic.latent),
      voices_semantic=_joined(voice_semantic, self.config.semantic.latent),
      latents=latents,
      semantic=semantic,
    )
    return rows.row(self.config, example, bare=bare)

  def _voices(self, recording: Recording, lines, rng: np.random.Generator) -> list[np.ndarray]:
    """The named voices; or, if there is one speaker, a piece of the recording itself."""
    if recording.voices:
      clips = [read.load(path, SAMPLE_RATE) for path in recording.voices]
    elif _has_one_speaker(lines):
      speech = read.load(recording.audio, SAMPLE_RATE)
      clips = [cropped(speech, rng, self.c.max_prompt_seconds)]
    else:
      clips = []
    return [loudness.at_loudness(clip) for clip in clips]

  def _speech_means(self, path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """`_means` of a recording between its silences."""
    speech = read.load(path, SAMPLE_RATE)
    return self._means(wrapped(speech, self.c.silence))

  def _means(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(acoustic means [F, C], semantic features [F, S]) of samples [n]."""
    acoustic = vectors(self.params.acoustic, self.config.acoustic, samples)
    heard = samples
    if self.c.semantic_of == 'codec':
      heard = decoded(self.params.acoustic, self.config.acoustic, acoustic)
    return acoustic, vectors(self.params.semantic, self.config.semantic, heard)

  def _noised(self, means: tuple[np.ndarray, np.ndarray], key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """(scaled latents with noise [F, C], semantic features [F, S]) of `_means`."""
    acoustic, semantic = means
    batch = jnp.asarray(acoustic)[None]
    latents = tokenizer.sample(self.config.acoustic, batch, key)[0]
    scaled = scaling.to_model(self.params.scaling, latents)
    return np.asarray(scaled), semantic


def _has_one_speaker(lines) -> bool:
  return len({line.speaker for line in lines}) == 1


def _silence(samples: int) -> np.ndarray:
  """float32 [samples] of zeros that take no memory."""
  return np.broadcast_to(np.float32(0), (samples,))


def _seconds(path: pathlib.Path) -> float:
  with read.open_recording(path) as recording:
    return recording.seconds


def _joined(parts: list[np.ndarray], width: int) -> np.ndarray:
  return np.concatenate([np.zeros((0, width), np.float32), *parts])


def vectors(params: tokenizer.Params, config: TokenizerConfig, samples: np.ndarray) -> np.ndarray:
  """Means float32 [F, latent] of one clip [n].

  Lengths are padded to few sizes, since each is compiled; layers are causal, so the padding does not change the means.
  """
  count = tokenizer.frames(config, len(samples))
  padded = padding.pad(samples, padding.bucket(count, SMALLEST_BUCKET) * config.hop)
  means = tokenizer.encode(params, config, padded[None])
  return np.asarray(means[0, :count])


def decoded(params: tokenizer.Params, config: TokenizerConfig, means: np.ndarray) -> np.ndarray:
  """Samples float32 [F · hop] of the means [F, latent] of one clip, padded as in `vectors`."""
  count = len(means)
  padded = padding.pad(means, padding.bucket(count, SMALLEST_BUCKET))
  samples = tokenizer.decode(params, config, padded[None])
  return np.asarray(samples[0, : count * config.hop])
