"""Speech from prompts, frame by frame, for several rows at once."""

from vibevoice.generation.host import AT_ONCE, Generation, begin, for_decoding
from vibevoice.generation.state import Frame, Given, Settings, State
from vibevoice.generation.step import frame_step

__all__ = ['AT_ONCE', 'Frame', 'Generation', 'Given', 'Settings', 'State', 'begin', 'for_decoding', 'frame_step']
