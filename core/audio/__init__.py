"""Recordings in and out: any file as blocks, sample rates, spectra, loudness, wav files and subtitles."""

from core.audio.loudness import at_loudness
from core.audio.read import Recording, load, open_recording
from core.audio.resample import Resampler, to_rate
from core.audio.samples import check
from core.audio.spectra import mel_filters, power_spectrum, spectrum
from core.audio.subtitles import WRITERS, Segment, Word
from core.audio.write import save_wav, wav_bytes

__all__ = [
  'WRITERS',
  'Recording',
  'Resampler',
  'Segment',
  'Word',
  'at_loudness',
  'check',
  'load',
  'mel_filters',
  'open_recording',
  'power_spectrum',
  'save_wav',
  'spectrum',
  'to_rate',
  'wav_bytes',
]
