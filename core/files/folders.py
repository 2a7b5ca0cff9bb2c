"""What a folder that was meant to be a checkpoint holds instead, and what to do about it."""

import pathlib

# Pattern of file names to what they are. The first that matches is what the folder is called.
KINDS = {
  'adapter_*': 'a PEFT adapter; merge it into its base model, and give the folder of the merged model',
  '*.gguf': 'GGUF files; convert them to safetensors, or download the original checkpoint',
  '*.bin': 'PyTorch pickles (.bin), which are never executed here; convert them with transformers: '
  "model.save_pretrained('…', safe_serialization=True)",
  '*.pt*': 'PyTorch pickles (.pt, .pth), which are never executed here; convert them to safetensors',
  '*.ckpt*': 'a training checkpoint of another program; export it to safetensors',
  '*.msgpack': 'Flax weights (.msgpack); convert them with transformers to safetensors',
  'checkpoint*': 'a workdir with training checkpoints; give its folder model/, or export one',
  'model': 'a workdir; give its folder model/',
}


def describe(path: pathlib.Path) -> str:
  """One phrase about the contents of a folder without safetensors."""
  for pattern, kind in KINDS.items():
    matches = sorted(path.glob(pattern))
    if matches:
      return f'holds {matches[0].name}: {kind}'
  names = sorted(file.name for file in path.iterdir())[:8]
  return f'holds {", ".join(names)}' if names else 'is empty'
