"""XLA flags under which tests compile in half the time or less; the programs are slower, and round differently."""

import importlib.metadata

# In jaxlib 0.10 the emitters of fused loops take most of the compile time. An unknown flag ends the process, and 0.11
# does not have this one.
WITHOUT_EMITTERS = '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'


def quick() -> str:
  """The flags for the jaxlib that is installed."""
  flags = '--xla_backend_optimization_level=0'
  if importlib.metadata.version('jaxlib').startswith('0.10.'):
    flags += ' ' + WITHOUT_EMITTERS
  return flags
