"""Why Whisper repeats itself: from recordings that loop to the components behind it (arXiv 2508.15882, section 5)."""

from interp.loops.ablation import Ablation, Component, components, without
from interp.loops.repetition import coverage, loops
from interp.loops.study import Settings, Study, find

__all__ = ['Ablation', 'Component', 'Settings', 'Study', 'components', 'coverage', 'find', 'loops', 'without']
