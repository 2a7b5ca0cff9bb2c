"""VibeVoice's prompt in real Qwen ids, by an independent tokenizer over the same ranks."""

import itertools

import pytest

from core.files.tokenizers import TextEncoder, token_id
from vibevoice.config import CONFIGS
from vibevoice.generation import words
from vibevoice.inputs import budget, prompt, script

pytestmark = pytest.mark.real
CONFIG = CONFIGS['1.5B']
WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def merge(word: bytes, rank: dict[bytes, int]) -> list[int]:
  """Byte-pair encoding as defined: the pair of least rank merges first."""
  parts = [word[i : i + 1] for i in range(len(word))]
  while len(parts) > 1:
    pairs = [rank.get(a + b, 1 << 30) for a, b in itertools.pairwise(parts)]
    best = min(range(len(pairs)), key=pairs.__getitem__)
    if pairs[best] == 1 << 30:
      break
    parts[best : best + 2] = [parts[best] + parts[best + 1]]
  return [rank[part] for part in parts]


def test_special_ids(qwen_tokenizer):
  names = {'<|vision_start|>': 'start', '<|vision_end|>': 'end', '<|vision_pad|>': 'slot', '<|endoftext|>': 'eos'}
  for token, role in names.items():
    assert token_id(qwen_tokenizer, token) == getattr(CONFIG, role)


@pytest.fixture(scope='module')
def ids(ranked):
  regex = pytest.importorskip('regex')
  rank = {token: number for number, token in enumerate(ranked)}
  return lambda text: [i for word in regex.findall(WORDS, text) for i in merge(word.encode(), rank)]


def literal(ids, lines, frames) -> list[int]:
  """The prompt's ids, piece by piece as published."""
  out = ids(
    ' Transform the text provided by various speakers into speech output, '
    'utilizing the distinct voice of each respective speaker.\n'
  )
  out += ids(' Voice input:\n')
  for speaker, count in enumerate(frames):
    out += [*ids(f' Speaker {speaker}:'), 151652, *[151654] * count, 151653, *ids('\n')]
  out += ids(' Text input:\n')
  for line in lines:
    out += ids(f' Speaker {line.speaker}: {line.text}\n')
  return [*out, *ids(' Speech output:\n'), 151652]


@pytest.mark.parametrize(
  ('name', 'turns', 'frames'),
  [('2p_short.txt', [1, 1], (70, 181)), ('4p_climate_100min.txt', [90, 163, 47, 63], (70, 181, 184, 70))],
)
def test_prompts_of_real_scripts(qwen_tokenizer, ids, real_folder, name, turns, frames):
  lines = script.numbered(script.load(real_folder(f'real/{name}')), voices=len(frames))
  assert [sum(line.speaker == s for line in lines) for s in range(len(frames))] == turns
  got = prompt.build(lines, frames, TextEncoder(qwen_tokenizer), CONFIG)
  assert got.tokens.tolist() == literal(ids, lines, frames)


def test_the_script_of_100_minutes_is_planned(qwen_tokenizer, real_folder):
  lines = script.load(real_folder('real/4p_climate_100min.txt'))
  encode = TextEncoder(qwen_tokenizer)
  made = budget.plan(lines, (70, 181, 184, 70), encode, CONFIG)
  assert 95 < made.expected * made.frame_seconds / 60 < 105  # its file's name says 100
  assert made.excess > 0 and 340 < made.fitting < len(lines) == made.utterances
  assert budget.plan(lines[: made.fitting], (70, 181, 184, 70), encode, CONFIG).excess == 0


@pytest.mark.parametrize('size', [1, 7, 64])
def test_text_that_arrives_in_pieces_has_the_same_ids(qwen_tokenizer, real_folder, size):
  text = real_folder('real/4p_climate_100min.txt').read_text()[:6000]
  pieces = [text[i : i + size] for i in range(0, len(text), size)]
  encode = TextEncoder(qwen_tokenizer)
  whole = text.strip().translate(words.ASCII_QUOTES) + '\n'
  assert list(words.tokens_of(pieces, encode)) == encode(whole)
