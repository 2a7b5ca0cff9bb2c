"""Packaging of Espalier: metadata, runtime requirements and optional extras."""

import pathlib
import runpy

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
PACKAGES = ('core', 'kernels', 'internvl', 'vibevoice', 'interp', 'rl', 'agents', 'bench')

# What the isolated Python needs: system call numbers; for other hosts a server and a client.
SANDBOX = [
  'httpx>=0.27,<1',
  'starlette>=0.46,<2',
  'system-calls>=7,<8',
  'uvicorn>=0.30,<1',
]

# What the benchmarks need beyond the core: scorers, model clients, reports.
BENCH = [
  'httpx>=0.27,<1',
  'jiwer>=4,<5',
  'langdetect>=1.0.9,<2',
  'math-verify>=0.8,<1',
  'mpmath>=1.3,<2',
  'psutil>=6,<8',
  'rapidfuzz>=3.9,<4',
  'sympy>=1.13,<2',
  # Only for Whisper's table of English spellings; the normaliser itself is that of transformers.
  'whisper-normalizer>=0.1.10,<0.2',
]

# What agents need beyond the core: a chat client, the Model Context Protocol, readers of documents and pages.
AGENTS = [
  'beautifulsoup4>=4.12,<5',
  'httpx>=0.27,<1',
  'markdownify>=1.1,<2',
  'mcp>=2.3,<3',
  'openpyxl>=3.1,<4',
  'pypdf>=5,<8',
  'python-docx>=1.1,<2',
  'python-pptx>=1,<2',
]

# Recordings in and out (libsndfile), and resampling.
AUDIO = ['soundfile>=0.13,<0.15', 'soxr>=0.5,<2']

# Models over HTTP; grammars for JSON and tool calls.
SERVE = ['llguidance>=1.3,<2', 'starlette>=0.46,<2', 'uvicorn>=0.30,<1']

# Synthetic speech to train a small VibeVoice or Whisper on, and to probe one: espeak-ng's library, under the GPL.
ESPEAK = ['espeakng-loader>=0.2.4,<0.3', *AUDIO]

# Quality of speech: PESQ, STOI, speaker embeddings (which bring torch).
SPEECH = ['pesq>=0.0.4,<0.1', 'pystoi>=0.4,<0.5', 'resemblyzer>=0.1.4,<0.2', *AUDIO]

# Speech over HTTP.
VIBEVOICE = [*AUDIO, 'starlette>=0.46,<2', 'uvicorn>=0.30,<1']

# Reads GGUF files and dequantises.
GGUF = ['gguf>=0.17,<1']

EXTRAS = {
  'cuda': ['jax[cuda13]'],
  'tpu': ['jax[tpu]'],
  # Ahead-of-time compilation for TPU topologies without a TPU: the libtpu that the jax release names.
  'plan': ['jax[tpu]'],
  # The same for GPUs: the CUDA plugin that the jax release names, without NVIDIA's libraries.
  'plan-gpu': ['jax[cuda13-local]'],
  'bench': BENCH,
  # Rewards that compare answers symbolically (`rl.rewards.boxed_symbolic`); all other rewards need nothing.
  'rl': ['math-verify>=0.8,<1'],
  # Isolated Python for agents, and the adapter that spreads it over a Ray cluster.
  'sandbox': SANDBOX,
  'agents': [*AGENTS, *SANDBOX],
  'ray': ['ray>=2.40,<3', *SANDBOX],
  # The published SEED scorer's parser, for `mode='compat'` only.
  'compat': ['latex2sympy2_extended[antlr4_13_2]>=1.10.2,<1.12'],
  # Models in GGUF files, for `python -m core.files.convert`.
  'gguf': GGUF,
  # Recordings of any format, and other sample rates.
  'audio': AUDIO,
  # Servers of language models in OpenAI's interface.
  'serve': SERVE,
  # VibeVoice's server, with its recordings.
  'vibevoice': VIBEVOICE,
  # Training VibeVoice from scratch on speech made on the spot.
  'espeak': ESPEAK,
  # How well synthesised speech keeps its recordings, for `python -m bench.speech.run`.
  'speech': SPEECH,
  # Metrics on Weights & Biases, for runs with WANDB_PROJECT in their environment.
  'wandb': ['wandb>=0.19,<1'],
  # Video containers (mp4, mkv, …); frame folders and animated images need nothing.
  'video': ['av>=15,<19'],
  'test': [
    'av>=15,<19',
    'openai>=2,<4',
    'pint>=0.24,<1',
    'playwright>=1.50,<2',
    'pytest>=8',
    'pytest-xdist>=3.6',
    'hypothesis>=6.100',
    'ruff>=0.17,<0.18',
    'setuptools>=70',
    *AGENTS,
    *AUDIO,
    *ESPEAK,
    *SANDBOX,
    *SERVE,
    *BENCH,
    *GGUF,
  ],
  # Notebooks of docs/notebooks: paired files, executed without a browser.
  'notebooks': [
    'ipykernel>=6.29,<8',
    'jupytext>=1.16,<2',
    'nbclient>=0.10,<1',
    'nbformat>=5.10,<6',
  ],
  # Reference implementations for the numerics tests only; never imported by the packages.
  'parity': ['diffusers>=0.35,<1', 'peft>=0.17,<1', 'torch>=2.9'],
}

setup(
  name='espalier-jax',
  version=runpy.run_path(str(ROOT / 'core' / 'version.py'))['__version__'],
  description='Multimodal models, reinforcement learning, agents and benchmarks in one JAX codebase',
  long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  python_requires='>=3.11',
  packages=find_packages(include=[p for name in PACKAGES for p in (name, f'{name}.*')]),
  package_data={name: ['py.typed', 'serving/*.html'] for name in PACKAGES},
  install_requires=[
    'jax>=0.10,<0.12',
    'flax>=0.12',
    'optax>=0.2.6',
    'orbax-checkpoint>=0.11.30',
    'grain>=0.2.12',
    'transformers>=5,<6',
    'tokenizers>=0.22',
    'sentencepiece>=0.2',
    'safetensors>=0.6',
    'einops>=0.8',
    'tensorstore>=0.1.76',
    'absl-py>=2.1',
    'cloudpickle>=3,<4',
    'numpy>=2',
    'pillow>=11.2,<14',
    'tensorboardX>=2.6',
    'tqdm>=4.66',
    'jinja2>=3.1,<4',
    'matplotlib>=3.9',
    'markupsafe>=2.1,<4',
    'scikit-learn>=1.5',
    'pyarrow>=17',
    'array_record>=0.8',
  ],
  extras_require=EXTRAS,
  classifiers=[
    'Intended Audience :: Science/Research',
    'Operating System :: POSIX :: Linux',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
)
