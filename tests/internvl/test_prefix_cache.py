"""Turns that keep keys and values: the tokens of a fresh run, and only what is new is prefilled."""

import dataclasses

import numpy as np
import pytest

import internvl
from core.files.weights import restacked
from internvl import chat as answer
from internvl import conversation
from tests.internvl.tiny import IMAGES, model, processor

# Two images from the start: the labels `Image-1: ` and so on, which a second one brings, are there in the first turn.
TURNS = ['<image> and <image>\nWhat are they?', 'And <image>, then?', 'Are you sure?']
SAMPLING = {'temperature': 1.0, 'seed': 3, 'max_new_tokens': 12}


@pytest.fixture(scope='module')
def tiny():
  # Images that share their tiles are cut anew when another one comes, and so are computed anew.
  p = processor(share_tiles=False)
  config, params = model(p)
  return params, config, p


def told(tiny, turns, images, **options):
  """The answers to turns of a conversation, each asked with the answers before it."""
  messages, answers = [], []
  for number, text in enumerate(turns, 1):
    messages.append({'role': 'user', 'content': text})
    shown = sum(m['content'].count('<image>') for m in messages)
    answers.append(answer(*tiny, messages, images=images[:shown], **SAMPLING | options))
    messages.append({'role': 'assistant', 'content': answers[-1]})
    assert number == len(answers)
  return answers


@pytest.mark.parametrize('unstacked', [pytest.param(False, marks=pytest.mark.slow), True])
def test_turns_answer_as_fresh_runs_and_prefill_what_is_new(tiny, unstacked, monkeypatch):
  params, config, p = tiny
  params = params if unstacked else restacked(params)  # as `model` makes them, or as loaded
  fed = []
  batch = conversation._batch

  def watched(processor, prompts):
    fed.append((sum(len(x.tokens) for x in prompts), sum(len(x.pixels) for x in prompts)))
    return batch(processor, prompts)

  monkeypatch.setattr(conversation, '_batch', watched)
  fresh = told((params, config, p), TURNS, IMAGES)
  whole, fed[:] = list(fed), []
  kept = told((params, config, p), TURNS, IMAGES, prefix_cache=internvl.PrefixCache())
  assert kept == fresh and len(set(fresh)) == 3
  assert fed[0] == whole[0]
  for (tokens, _), (all_tokens, _), (before, _) in zip(fed[1:], whole[1:], whole):
    assert tokens <= all_tokens - before  # at least the whole prompt before is reused
  assert fed[2][1] == 0 < whole[2][1]  # no tile is encoded again


@pytest.mark.slow
def test_the_common_prefix_ends_where_tokens_or_image_bytes_differ(tiny):
  params, config, p = tiny
  cache = internvl.PrefixCache()
  ask = lambda text, image, **options: answer(
    params, config, p, [{'role': 'user', 'content': text}], images=[image], prefix_cache=cache, **SAMPLING | options
  )
  tokens = p([{'role': 'user', 'content': 'So: <image> it is?'}], images=[IMAGES[0]]).tokens
  first = int(np.flatnonzero(tokens == p.image_id)[0])
  ask('So: <image> it is?', IMAGES[0])
  assert cache.reused == 0
  same = ask('So: <image> it is?', IMAGES[0])
  assert cache.reused == len(tokens) - 1  # one is left, for the first logits
  other = ask('So: <image> it is?', IMAGES[1])
  assert cache.reused == first
  assert (same, other) == tuple(
    answer(params, config, p, [{'role': 'user', 'content': 'So: <image> it is?'}], images=[image], **SAMPLING)
    for image in IMAGES[:2]
  )
  ask('No: <image> it is?', IMAGES[1])
  assert 0 < cache.reused < first
  params = dataclasses.replace(params)  # other weights, for all the cache knows
  ask('No: <image> it is?', IMAGES[1])
  assert cache.reused == 0


def test_several_conversations_have_no_common_cache(tiny):
  with pytest.raises(ValueError, match='prefix_cache takes one conversation'):
    answer(*tiny, [[{'role': 'user', 'content': 'a'}]] * 2, prefix_cache=internvl.PrefixCache(), **SAMPLING)


def test_limits_of_a_call(tiny):
  _, _, p = tiny
  wide = np.zeros((p.config.image_size, 4 * p.config.image_size, 3), np.uint8)
  look = [{'role': 'user', 'content': '<image>'}]
  assert [len(p(look, images=[wide], max_tiles=n).pixels) for n in (1, 2)] == [1, 2 + p.config.thumbnail]
  watch = [{'role': 'user', 'content': '<video>'}]
  assert [len(p(watch, videos=[[wide] * 6], frames=n).pixels) for n in (1, 3)] == [1, 3]
  with pytest.raises(ValueError, match='max_tiles=0: expected 1 or more'):
    p(look, images=[wide], max_tiles=0)
  with pytest.raises(ValueError, match='frames=0: expected 1 or more'):
    p(watch, videos=[[wide]], frames=0)


@pytest.mark.slow
def test_a_repetition_penalty_and_further_ends_reach_the_answer(tiny):
  params, config, p = tiny
  hi = [{'role': 'user', 'content': 'hi'}]
  plain = answer(params, config, p, hi, max_new_tokens=24)
  assert answer(params, config, p, hi, max_new_tokens=24, repetition_penalty=5.0) != plain
  end = next(c for c in plain if c.isascii() and c.isprintable() and c != ' ')
  ended = internvl.Processor(p.config, p.tokenizer, stops=[ord(end)])  # ids of bytes are the bytes
  assert answer(params, config, ended, hi, max_new_tokens=24) == plain.split(end)[0].strip()
