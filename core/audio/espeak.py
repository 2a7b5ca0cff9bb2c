"""Text to speech by espeak-ng's shared library, which the package `espeakng-loader` carries (extra `espeak`)."""

import ctypes
import functools
import pathlib

import numpy as np

from core.audio.resample import to_rate

SYNCHRONOUS = 2  # samples come through a callback before `espeak_Synth` returns
RATE, PITCH = 1, 3  # numbers of espeak-ng's parameters
UTF8 = 1
BUFFER = 200  # milliseconds a callback

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class EspeakError(ValueError):
  """espeak-ng refused a voice or a text."""


@functools.cache
def _library() -> tuple[ctypes.CDLL, int]:
  """The initialised library and its sample rate in Hz; it has one global state, so it is opened once."""
  import espeakng_loader

  library = ctypes.CDLL(espeakng_loader.get_library_path())
  data = pathlib.Path(espeakng_loader.get_data_path()).parent
  rate = library.espeak_Initialize(SYNCHRONOUS, BUFFER, str(data).encode(), 0)
  if rate <= 0:
    raise EspeakError(f'espeak-ng cannot read its data in {data}')
  return library, rate


def speak(text: str, voice: str = 'en', *, rate: int, words_per_minute: int = 175, pitch: int = 50) -> np.ndarray:
  """Speech float32 [samples] at `rate` Hz, in -1..1. Two calls differ a little: the library jitters pitch from a state
  of its own.

  voice: a language with an optional variant, such as 'en+f2'. pitch: 0 to 99. Raises EspeakError for an unknown voice
  and for a text that makes no sound.
  """
  library, own_rate = _library()
  if library.espeak_SetVoiceByName(voice.encode()):
    raise EspeakError(f'voice {voice!r} is unknown to espeak-ng')
  library.espeak_SetParameter(RATE, words_per_minute, 0)
  library.espeak_SetParameter(PITCH, pitch, 0)
  pieces = []

  @_Callback
  def collect(samples, count, _):
    if samples and count > 0:
      pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
    return 0

  library.espeak_SetSynthCallback(collect)
  encoded = text.encode()
  failed = library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, UTF8, None, None)
  samples = np.concatenate([np.zeros(0, np.int16), *pieces])
  if failed or not samples.any():
    raise EspeakError(f'espeak-ng made no sound of {text!r}')
  scaled = samples.astype(np.float32) / 2**15
  return to_rate(scaled, own_rate, rate)
