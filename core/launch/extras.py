"""Which extra of the project installs a package: one table, which a test compares with setup.py."""

# Module → the extras that bring it, the usual one first.
MODULES = {
  'av': ('video',),
  'bs4': ('agents',),
  'diffusers': ('parity',),
  'docx': ('agents',),
  'espeakng_loader': ('espeak',),
  'gguf': ('gguf',),
  'httpx': ('agents', 'bench', 'sandbox', 'ray'),
  'jiwer': ('bench',),
  'langdetect': ('bench',),
  'latex2sympy2_extended': ('compat',),
  'llguidance': ('serve',),
  'markdownify': ('agents',),
  'math_verify': ('bench', 'rl'),
  'mcp': ('agents',),
  'mpmath': ('bench',),
  'openpyxl': ('agents',),
  'peft': ('parity',),
  'pesq': ('speech',),
  'pptx': ('agents',),
  'psutil': ('bench',),
  'pypdf': ('agents',),
  'pystoi': ('speech',),
  'rapidfuzz': ('bench',),
  'ray': ('ray',),
  'resemblyzer': ('speech',),
  'soundfile': ('audio', 'espeak', 'speech', 'vibevoice'),
  'soxr': ('audio', 'espeak', 'speech', 'vibevoice'),
  'starlette': ('serve', 'agents', 'sandbox', 'ray', 'vibevoice'),
  'sympy': ('bench',),
  'system_calls': ('agents', 'sandbox', 'ray'),
  'torch': ('parity',),
  'uvicorn': ('serve', 'agents', 'sandbox', 'ray', 'vibevoice'),
  'wandb': ('wandb',),
  'whisper_normalizer': ('bench',),
}


def extra(module: str, program: str = '') -> str | None:
  """The extra that brings a module: the one named like the program's package if it does, else the usual one."""
  known = MODULES.get(module.split('.')[0], ())
  package = program.split('.')[0]
  if package in known:
    return package
  return next(iter(known), None)


def advice(module: str, program: str = '') -> str:
  """What to say when a module is not installed."""
  name = extra(module, program)
  source = f"'.[{name}]'" if name else '.'
  return f'{module} is not installed; in the clone of Espalier run: pip install -e {source}'
