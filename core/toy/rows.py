"""Examples of the made tasks as files that InternVL trains on."""

import json
import os
from collections.abc import Iterable
from typing import Any


def write(folder: str | os.PathLike, split: str, items: Iterable[Any]) -> str:
  """Writes examples (image, question, answer) as `<split>.jsonl` and a folder of PNG files; returns the JSONL's path.

  The JSONL file appears only when everything it names is there.
  """
  os.makedirs(os.path.join(folder, split), exist_ok=True)
  lines = []
  for i, item in enumerate(items):
    name = f'{split}/{i:06d}.png'
    item.image.save(os.path.join(folder, name))
    talk = [{'from': 'human', 'value': f'<image>\n{item.question}'}, {'from': 'gpt', 'value': item.answer}]
    lines.append(json.dumps({'id': i, 'image': name, 'conversations': talk}) + '\n')
  path = os.path.join(folder, f'{split}.jsonl')
  with open(path + '.part', 'w', encoding='utf-8') as file:
    file.writelines(lines)
  os.replace(path + '.part', path)
  return path
