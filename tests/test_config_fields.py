"""Every field of every job through parsing: its default, another value, and a value of a wrong type."""

import functools
import importlib
import types
import typing
from collections.abc import Iterator

import pytest

from core.launch import casting, fields
from core.launch import job as launch
from core.launch.errors import UsageError

CASES = [  # a config of each class
  ('rl.train', 'digits'),
  ('rl.train', 'pref_grpo'),
  ('rl.train', 'pref_grpo_folder'),
  ('rl.mpo', 'release'),
  ('agents.train', 'tiny'),
  ('internvl.train', 'tiny'),
  ('interp.train', 'digits'),
  ('vibevoice.train', 'finetune'),
  ('vibevoice.train_tokenizer', 'tiny'),
]
# Further flags that a value of a field needs.
NEEDED = {
  'data': ('heldout=b',),
  'heldout': ('data=a',),
  'export': ('ema=0.9',),
  'weights': ('data=a,b',),
  'rule.length': ('rule.aggregation=constant',),
  'rule.surrogate': ('rule.dual_clip=none',),
}
AGENTS_NEED = NEEDED | {'model': ('data=a', 'heldout=b', 'sft.steps=0'), 'tool_text': ('lag=none',)}
# Shares that sum to 1 change together.
AGENTS_SHARES = {'sft.calls': 'sft.slips', 'sft.slips': 'sft.calls', 'sft.guesses': 'sft.calls'}


def parse(case: tuple[str, str], *changes: str):
  """The configuration of a case with `field=value` changes."""
  job, name = case
  configs = importlib.import_module(job).CONFIGS
  return launch.parse(configs, name, ['program', *(f'--config.{change}' for change in changes)]).config


@functools.cache
def every(case: tuple[str, str]) -> dict[str, fields.Leaf]:
  """The fields of a case by name."""
  job, name = case
  return {leaf.name: leaf for leaf in fields.leaves(importlib.import_module(job).CONFIGS[name])}


def values(config) -> dict[str, object]:
  return {leaf.name: leaf.value for leaf in fields.leaves(config)}


def spelled(value) -> str:
  """A value as a command line has it."""
  return ','.join(map(str, value)) if isinstance(value, tuple) else str(value)


def kinds(leaf: fields.Leaf) -> tuple:
  """The types that a field may have."""
  return typing.get_args(leaf.kind) if casting.is_union(leaf.kind) else (leaf.kind,)


def others(leaf: fields.Leaf) -> Iterator[str]:
  """Values that differ from the default, likely ones first."""
  for kind in kinds(leaf):
    if typing.get_origin(kind) is typing.Literal:
      candidates = map(str, typing.get_args(kind))
    elif typing.get_origin(kind) is tuple:
      candidates = ('a,b',) if str in typing.get_args(kind) else ('0.25,0.75', '4,8', '((400, 2048), (600, 4096))')
    elif kind is bool:
      candidates = ('True', 'False')
    elif kind is str:
      candidates = ('expressions', 'x', '{response}{description}{question}')
    elif kind is types.NoneType:
      candidates = ('none',)
    else:
      candidates = ('2', '1', '4', '0', '8', '1000', '10000') if kind is int else ('0.5', '0.25', '0.0', '2.0')
    yield from (text for text in candidates if text.lower() != spelled(leaf.value).lower())


def needed(case: tuple[str, str], leaf: fields.Leaf, text: str) -> tuple[str, ...]:
  """The other changes that a change of a field needs."""
  job, _ = case
  if job == 'internvl.train':
    return NEEDED['weights'] if leaf.name == 'weights' else ()
  if job in ('interp.train', 'rl.mpo', 'vibevoice.train', 'vibevoice.train_tokenizer'):
    return ()
  if job == 'agents.train' and leaf.name in AGENTS_SHARES:
    partner = every(case)[AGENTS_SHARES[leaf.name]]
    return (f'{partner.name}={partner.value + leaf.value - float(text)}',)
  return (AGENTS_NEED if job == 'agents.train' else NEEDED).get(leaf.name, ())


@pytest.mark.parametrize('case', CASES)
def test_every_default_is_accepted_when_it_is_given(case):
  changes = [f'{name}={spelled(leaf.value)}' for name, leaf in every(case).items()]
  assert parse(case, *changes) == parse(case)


def accepted(case: tuple[str, str], leaf: fields.Leaf) -> bool:
  """Whether another value of the field parses; it is then the value, and no other field moves."""
  for text in others(leaf):
    also = needed(case, leaf, text)
    try:
      got = values(parse(case, f'{leaf.name}={text}', *also))
    except UsageError as error:
      assert '\n' not in str(error)
      continue
    moved = {name for name, default in every(case).items() if got[name] != default.value}
    assert spelled(got[leaf.name]) == spelled(casting.cast(text, leaf.kind))
    assert leaf.name in moved and moved <= {leaf.name, *(change.partition('=')[0] for change in also)}
    return True
  return False


@pytest.mark.parametrize('case', CASES)
def test_every_field_takes_another_value(case):
  refused = {name for name, leaf in every(case).items() if not accepted(case, leaf)}
  assert not refused, 'options that nobody can use'


def wrong(leaf: fields.Leaf) -> list[str]:
  """Texts that are of none of the field's types; every text is a text."""
  if any(kind is str or str in typing.get_args(kind) for kind in kinds(leaf)):
    return []
  return ['nonsense', '1.5'] if set(kinds(leaf)) <= {int, types.NoneType} else ['nonsense']


@pytest.mark.parametrize('case', CASES)
def test_a_value_of_a_wrong_type_is_refused_in_one_line_that_names_the_field(case):
  tried = 0
  for leaf in every(case).values():
    for text in wrong(leaf):
      with pytest.raises(UsageError) as error:
        parse(case, f'{leaf.name}={text}')
      assert leaf.name in str(error.value) and text in str(error.value) and '\n' not in str(error.value)
      tried += 1
  assert tried >= len(every(case)) - 12
