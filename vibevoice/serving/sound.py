"""Samples as bytes on the wire: PCM of 16 bits, and the header of a wav file whose length is not known yet."""

import struct

import numpy as np

UNKNOWN = 0xFFFFFFFF  # in place of both lengths: the stream ends where the connection does
PCM = 1  # the format's number


def pcm16(samples: np.ndarray) -> bytes:
  """Little-endian int16 of samples float32 [N] in -1..1, cut off beyond."""
  scaled = np.round(np.clip(samples, -1, 1) * 32767)
  return scaled.astype('<i2').tobytes()


def wav_header(rate: int) -> bytes:
  """The 44 bytes before one channel of `pcm16` at `rate` Hz."""
  width = 2  # bytes a sample
  layout = struct.pack('<HHIIHH', PCM, 1, rate, rate * width, width, 8 * width)
  parts = (b'RIFF', UNKNOWN, b'WAVE', b'fmt ', len(layout), layout, b'data', UNKNOWN)
  return struct.pack('<4sI4s4sI16s4sI', *parts)
