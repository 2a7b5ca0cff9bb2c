"""How large an engine is, as part of a binary's configuration."""

import dataclasses

from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class EngineSize:
  """The sizes that `core.engine.Engine` takes, and checks."""

  slots: int = field(512, 'answers decoded together')
  pages: int = field(1024, 'pages of the key-value cache')
  page_size: int = field(16, 'tokens of a page')
  segment: int = field(4, 'tokens decoded between two looks at what is finished')
  chunk: int = field(512, 'prompt tokens filled in at a time')
