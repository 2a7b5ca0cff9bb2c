"""Chat layouts of InternVL: how turns become special tokens and text, and which of it is trained on.

A conversation is laid out as `Segment`s before any of it is tokenised, so the boundary of the loss mask is a
boundary between segments, never a position guessed in a token sequence, and text is never scanned for
special tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

IMAGE_START = '<img>'
IMAGE_CONTEXT = '<IMG_CONTEXT>'
IMAGE_END = '</img>'
IMAGE_TOKENS = (IMAGE_START, IMAGE_CONTEXT, IMAGE_END)
# Tags that users and models write inside their text: grounding and reasoning.
MARKUP = ('<ref>', '</ref>', '<box>', '</box>', '<quad>', '</quad>', '<think>', '</think>')

# The fixed system texts that the published models were trained with (OpenGVLab/InternVL, conversation.py).
PERSONA = '你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。'
# Harmony's is `internvl3_5_gpt_oss` of internvl_chat_gpt_oss; its preference trainer says what reasoning changes in it.
HARMONY_SYSTEM = (
  'You are InternVL, a large language model trained by Shanghai AI Laboratory.\n'
  'Knowledge cutoff: 2024-06\nCurrent date: 2025-08-06\n\nReasoning: {effort}\n\n'
  '# Valid channels: {channels}. Channel must be included for every message.'
)
# Replaces the system text in thinking mode; sample with temperature 0.6. The models were trained with this protocol, so
# it is a quotation, to the letter, of the InternVL3.5 model cards (OpenGVLab/InternVL3_5-8B, "Thinking Mode").
THINKING = (
  'You are an AI assistant that rigorously follows this response protocol:\n\n'
  '1. First, conduct a detailed analysis of the question. Consider different angles, potential solutions, and reason '
  'through the problem step-by-step. Enclose this entire thinking process within <think> and </think> tags.\n\n'
  "2. After the thinking section, provide a clear, concise, and direct answer to the user's question. Separate the "
  'answer from the think section with a newline.\n\n'
  'Ensure that the thinking process is thorough but remains focused on the query. The final answer should be '
  'standalone and not reference the thinking section.'
)


class Segment(NamedTuple):
  """A run of plain text, or `repeat` copies of one special token given by its string."""

  text: str
  special: bool = False
  loss: bool = False
  repeat: int = 1


def image_run(tokens: int) -> list[Segment]:
  """The placeholder of one image or frame: `<img>`, `tokens` × `<IMG_CONTEXT>`, `</img>`."""
  return [Segment(IMAGE_START, True), Segment(IMAGE_CONTEXT, True, repeat=tokens), Segment(IMAGE_END, True)]


def frame_lines(frames: int, tokens: int) -> list[Segment]:
  """A video's placeholder: a line `Frame{k}: ` + image for each frame, k from 1, without a last newline."""
  segments = []
  for k in range(1, frames + 1):
    segments += [Segment('\n' * (k > 1) + f'Frame{k}: '), *image_run(tokens)]
  return segments


@dataclasses.dataclass(frozen=True)
class Layout:
  """One way to write a conversation.

  Attributes:
    turn: (role, content, last) -> the segments of a whole turn; `last`: it ends a training conversation.
    opening: what a prompt ends with, to make the model answer.
    system: the system text where the conversation brings none; '' for no system turn.
    thinking: the system text in thinking mode.
    tokens: the special tokens used, image tokens excluded.
    stop: the token that ends an answer.
    answer: the raw decoded output, special tokens included and cut at `stop` -> what to show.
    label_images: whether several images are introduced by `Image-{k}: `.
  """

  turn: Callable[[str, Sequence[Segment], bool], list[Segment]]
  opening: tuple[Segment, ...]
  system: str
  thinking: str
  tokens: tuple[str, ...]
  stop: str
  answer: Callable[[str], str] = str.strip
  label_images: bool = True


def _chatml_turn(role: str, content: Sequence[Segment], last: bool) -> list[Segment]:
  """`<|im_start|>role\\n … <|im_end|>\\n`. Trained on: the assistant's content and its `<|im_end|>`."""
  del last  # every turn has the same end
  loss = role == 'assistant'
  return [
    Segment('<|im_start|>', True),
    Segment(role + '\n'),
    *(s._replace(loss=loss) for s in content),
    Segment('<|im_end|>', True, loss),
    Segment('\n'),
  ]


def _harmony_turn(role: str, content: Sequence[Segment], last: bool) -> list[Segment]:
  """`<|start|>role<|message|> … <|end|>`, the assistant on channel `final`, after `analysis` if it thought.

  Trained on: all of an assistant turn but its `<|start|>assistant`. In training each of them ends in
  `<|return|>`; in a history that a prompt repeats, in `<|end|>`.
  """
  if role != 'assistant':
    return [Segment('<|start|>', True), Segment(role), Segment('<|message|>', True), *content, Segment('<|end|>', True)]
  thought, closed, answer = ''.join(s.text for s in content).partition('</think>')
  if not closed:
    thought, answer = '', thought
  segments = []
  if thought := thought.strip().removeprefix('<think>').strip():
    segments += [
      *_channel('analysis', thought),
      Segment('<|end|>', True),
      Segment('<|start|>', True),
      Segment('assistant'),
    ]
    answer = answer.lstrip()
  segments += [*_channel('final', answer), Segment('<|return|>' if last else '<|end|>', True)]
  return [*HARMONY_OPENING, *(s._replace(loss=True) for s in segments)]


def _channel(name: str, text: str) -> list[Segment]:
  return [Segment('<|channel|>', True), Segment(name), Segment('<|message|>', True), Segment(text)]


def _harmony_answer(text: str) -> str:
  """The text of channel `final`; '' where the output stopped before reaching it."""
  _, reached, answer = text.partition('<|channel|>final<|message|>')
  if reached:
    return answer.partition('<|end|>')[0].strip()
  return ''


CHATML_OPENING = (Segment('<|im_start|>', True), Segment('assistant\n'))
HARMONY_OPENING = (Segment('<|start|>', True), Segment('assistant'))
_CHATML = Layout(
  turn=_chatml_turn,
  opening=CHATML_OPENING,
  system=PERSONA,
  thinking=THINKING,
  tokens=('<|im_start|>', '<|im_end|>'),
  stop='<|im_end|>',
)

LAYOUTS = {
  # The names are those of the `template` key of published config files, and `internvl_hf` for the chat
  # template of the -HF checkpoints, which has no system turn of its own and no image labels.
  'internvl2_5': _CHATML,
  'internvl_hf': dataclasses.replace(_CHATML, system='', label_images=False),
  'internvl3_5_gpt_oss': Layout(
    turn=_harmony_turn,
    opening=HARMONY_OPENING,
    system=HARMONY_SYSTEM.format(effort='low', channels='final'),
    thinking=HARMONY_SYSTEM.format(effort='high', channels='analysis, final'),
    tokens=('<|start|>', '<|end|>', '<|message|>', '<|channel|>', '<|return|>'),
    stop='<|return|>',
    answer=_harmony_answer,
  ),
}


def conversation(layout: Layout, turns: Sequence[tuple[str, Sequence[Segment]]], system: str) -> list[Segment]:
  """All segments of a conversation of (role, content) turns.

  One that ends with the assistant is a training example; any other ends with the layout's `opening`, which the model
  continues.
  """
  training = turns[-1][0] == 'assistant'
  segments = []
  if system:
    segments = layout.turn('system', [Segment(system)], training)
  for role, content in turns:
    segments += layout.turn(role, content, training)
  if training:
    return segments
  return [*segments, *layout.opening]


def tokenize(
  segments: Iterable[Segment], encode: Callable[[str], list[int]], ids: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
  """Token ids int32 [T] and loss mask bool [T]: mask[t] says that token t is one to predict.

  Neighbouring text of equal loss is encoded as one string, so the result equals tokenising the whole
  conversation at once, except that no token spans a mask boundary: exactly where generation would begin.
  """
  tokens = []
  mask = []
  for (special, loss), run in itertools.groupby(segments, key=lambda s: (s.special, s.loss)):
    run = list(run)
    structure = []
    if special:
      structure = [ids[s.text] for s in run for _ in range(s.repeat)]
    encoded = structure or encode(''.join(s.text for s in run))
    tokens += encoded
    mask += [loss] * len(encoded)
  return np.asarray(tokens, np.int32), np.asarray(mask, bool)
