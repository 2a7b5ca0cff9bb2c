"""What a folder that was meant to be a checkpoint holds instead, and what to do about it."""

import fnmatch
from collections.abc import Sequence

# Pattern of file names to what they are. The first that matches is what the folder is called.
KINDS = {
  'adapter_*': 'a PEFT adapter; load its base model with adapter=, and this folder',
  '*.gguf': 'GGUF files; convert them to safetensors, or download the original checkpoint',
  '*.bin': 'PyTorch pickles (.bin), which are never executed here; convert them with transformers: '
  "model.save_pretrained('…', safe_serialization=True)",
  '*.pt*': 'PyTorch pickles (.pt, .pth), which are never executed here; convert them to safetensors',
  '*.ckpt*': 'a training checkpoint of another program; export it to safetensors',
  '*.msgpack': 'Flax weights (.msgpack); convert them with transformers to safetensors',
  'checkpoint*': 'a workdir with training checkpoints; give its folder model/, or export one',
  'model': 'a workdir; give its folder model/',
}


def describe(names: Sequence[str]) -> str:
  """One phrase about a folder that holds no safetensors, from the sorted names in it."""
  for pattern, kind in KINDS.items():
    matches = fnmatch.filter(names, pattern)
    if matches:
      return f'holds {matches[0]}: {kind}'
  if names:
    return f'holds {", ".join(names[:8])}'
  return 'is empty'
