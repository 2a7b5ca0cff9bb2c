"""VLMEvalKit's scoring functions, taken one by one out of a checkout, so that none of what they import is needed.

A function is found by its name in its file, compiled as it is, and given stand-ins for the tables and files that it
touches. Nothing of the kit is in this repository.
"""

import ast
import copy
import os
import re
import string
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

_VQA = 'vlmeval/dataset/utils/vqa_eval.py'
_YES_OR_NO = 'vlmeval/dataset/utils/yorn.py'
_OPTIONS = 'vlmeval/utils/matching_util.py'
_MATHVISTA = 'vlmeval/dataset/utils/mathvista.py'
_OCRBENCH = 'vlmeval/dataset/image_vqa.py'
_COMMON = 'vlmeval/smp/misc.py'

Row = Mapping[str, Any]
Verdict = Callable[[Row], float]
"""The points, 0 to 1, of a row with its prediction."""


class Table:
  """As much of a data frame as the kit's functions use of one."""

  def __init__(self, rows: Sequence[Row]):
    self.iloc = [dict(row) for row in rows]

  def __len__(self) -> int:
    return len(self.iloc)

  def __getitem__(self, name: str) -> list:
    return [row[name] for row in self.iloc]

  def __setitem__(self, name: str, values: Sequence) -> None:
    for row, value in zip(self.iloc, values, strict=True):
      row[name] = value

  def __contains__(self, name: str) -> bool:
    """False: no column is reported by its values."""
    return False


def functions(kit: str, file: str, *names: str, **known: Any) -> dict[str, Any]:
  """Functions and constants of a file of the checkout by name, in one namespace with what they are to know.

  Raises ValueError, naming the file, where one is missing.
  """
  path = Path(kit) / file
  if not path.is_file():
    raise ValueError(f'{path}: no such file; expected a checkout of VLMEvalKit')
  kept = [node for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))) if _name(node) in names]
  missing = set(names) - {_name(node) for node in kept}
  if missing:
    raise ValueError(f'{path}: {min(missing)} is missing; this version of VLMEvalKit scores in another way')
  return _namespace(kept, str(path), known)


def _name(node: ast.AST) -> str | None:
  if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
    return node.targets[0].id
  if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
    return node.name
  return None


def _namespace(nodes: Sequence[ast.AST], path: str, known: Mapping[str, Any]) -> dict[str, Any]:
  space = {'np': np, 're': re, 'os': os, 'string': string, 'cp': copy, 'Optional': Optional, 'defaultdict': defaultdict}
  space |= known
  module = ast.Module(body=list(nodes), type_ignores=[])
  # Code of a checkout that the user names, as trusted as a package that is imported. Importing the kit's own modules
  # would need its models and their packages.
  exec(compile(module, path, 'exec'), space)
  return space


def verdicts(kit: str) -> dict[str, Verdict]:
  """Task → what the kit gives a row. Raises ValueError for a checkout without the functions."""
  common = functions(kit, _COMMON, 'process_punctuation', 'istype')
  listed = lambda names, text: any(name in text for name in names)
  helpers = {'process_punctuation': common['process_punctuation'], 'istype': common['istype'], 'listinstr': listed}
  options = functions(kit, _OPTIONS, '_VERBOSE_ANSWER_RE', 'can_infer_option', 'can_infer_text', 'can_infer')
  choice = _choice(options['can_infer'])
  return {
    **_short_answers(kit, helpers),
    'ocrbench': _ocrbench(kit),
    'hallusionbench': _yes_or_no(kit, helpers),
    'ai2d': choice,
    'mmstar': choice,
    'mathvista': _mathvista(kit, options['can_infer']),
  }


def _short_answers(kit: str, helpers: Mapping[str, Any]) -> dict[str, Verdict]:
  names = ('_process_digit_article', 'process_answer', 'levenshtein_distance', 'anls_compute', 'relaxed_correctness')
  vqa = functions(kit, _VQA, *names, 'process_line', 'hit_calculate', **helpers)

  def verdict(method: str, dataset: str) -> Verdict:
    return lambda row: float(vqa['hit_calculate']([vqa['process_line'](row, method)], dataset)[0])

  return {
    'docvqa': verdict('anls', 'DocVQA_VAL'),
    'infovqa': verdict('anls', 'InfoVQA_VAL'),
    'chartqa': verdict('relaxed_accuracy', 'ChartQA_TEST'),
    'textvqa': verdict('vqa_score', 'TextVQA_VAL'),
  }


def _ocrbench(kit: str) -> Verdict:
  unused = lambda *parts: None
  known = {'tqdm': lambda rows: rows, 'dump': unused, 'get_intermediate_file_path': unused, 'load': Table}
  bases = {'ImageBaseDataset': object}
  space = functions(kit, _OCRBENCH, 'OCRBench', **known, **bases)
  return lambda row: float(space['OCRBench'].evaluate([row])['Final Score'])


def _yes_or_no(kit: str, helpers: Mapping[str, Any]) -> Verdict:
  extract = functions(kit, _YES_OR_NO, 'YOrN_Extraction', **helpers)['YOrN_Extraction']
  return lambda row: float(extract(row['prediction']) == row['answer'])


def three_accuracies(kit: str, rows: Sequence[Row], scores: Sequence[float]) -> dict[str, float]:
  """The kit's aAcc, fAcc and qAcc, in percent, of HallusionBench's rows with their scores."""

  class Frames:
    DataFrame = dict

  table = Table(rows)
  table['score'] = scores
  known = {'load': lambda path: table, 'pd': Frames}
  rated = functions(kit, _YES_OR_NO, 'Hallusion_rating', **known)['Hallusion_rating']('')
  return {name: float(rated[name][0]) for name in ('aAcc', 'fAcc', 'qAcc')}


def _choice(can_infer: Callable) -> Verdict:
  def verdict(row: Row) -> float:
    choices = {letter: row[letter] for letter in string.ascii_uppercase if row.get(letter)}
    return float(can_infer(row['prediction'], choices) == row['answer'])

  return verdict


class _Copying:
  """A judge that gives back the response that it is asked about, where no model is to be had."""

  def generate(self, prompt: str, temperature: float = 0.0) -> str:
    return prompt


def _mathvista(kit: str, can_infer: Callable) -> Verdict:
  known = {'can_infer': can_infer, 'FAIL_MSG': 'Failed to obtain answer via API.'}
  known['build_mathvista_gpt4_prompt'] = lambda row: row['prediction']
  space = functions(kit, _MATHVISTA, 'list_to_dict', 'post_check', 'MathVista_auxeval', **known)

  def verdict(row: Row) -> float:
    judged = space['MathVista_auxeval'](_Copying(), row)
    return float(space['post_check']({**row, **judged}))

  return verdict
