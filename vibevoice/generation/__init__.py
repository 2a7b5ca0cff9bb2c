"""Speech from prompts, frame by frame, for several rows at once."""

from vibevoice.generation.host import Generation, begin
from vibevoice.generation.state import Frame, Given, Settings, State
from vibevoice.generation.step import frame_step

__all__ = ['Frame', 'Generation', 'Given', 'Settings', 'State', 'begin', 'frame_step']
