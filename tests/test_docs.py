"""Paths, links and dotted names in the documentation are those of the code."""

import ast
import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
PACKAGES = 'agents|bench|core|internvl|interp|kernels|rl|vibevoice'
OTHERS = 'tests|docs'
PATH = re.compile(rf'`((?:{PACKAGES}|{OTHERS})/[\w./-]*?)/?`')
DOTTED = re.compile(rf'`((?:{PACKAGES})(?:\.\w+)+)\b')
LINK = re.compile(r'\]\(([^)\s]+)\)')


def anchors(page: pathlib.Path) -> set[str]:
  """The names that links into a page may have, as GitHub makes them of its headings."""
  heads = re.findall(r'^#+ (.+)$', page.read_text(encoding='utf-8'), re.M)
  return {re.sub(r'[^\w\- ]', '', head.lower()).replace(' ', '-') for head in heads}


def broken_links(page: pathlib.Path) -> list[str]:
  found = []
  for link in LINK.findall(page.read_text(encoding='utf-8')):
    if link.startswith(('http:', 'https:')):
      continue
    name, _, anchor = link.partition('#')
    target = page.parent / name if name else page
    if not target.exists() or (anchor and anchor not in anchors(target)):
      found.append(link)
  return found


def resolves(name: str) -> bool:
  """Whether a dotted name is a module, or an attribute of one."""
  parts = name.split('.')
  for stop in range(len(parts), 0, -1):
    try:
      found = importlib.import_module('.'.join(parts[:stop]))
    except ModuleNotFoundError as error:
      if not error.name.startswith(parts[0]):
        return True  # the module is there, and a package that only its extra brings is not
      continue
    for part in parts[stop:]:
      fields = getattr(found, '__dataclass_fields__', {})
      if not hasattr(found, part) and part not in fields:
        return False
      found = getattr(found, part, None)
    return True
  return False


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_links_and_paths_exist(page):
  paths = PATH.findall(page.read_text(encoding='utf-8'))
  missing = [path for path in paths if not (ROOT / path).exists()]
  assert not missing + broken_links(page)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_dotted_names_exist(page):
  names = set(DOTTED.findall(page.read_text(encoding='utf-8')))
  assert not sorted(name for name in names if not resolves(name))


def defined(path: pathlib.Path) -> set[str]:
  """The functions, classes, methods and constants of a module."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      names.add(node.name)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      names.add(node.id)
  return names


def test_find_your_way_names_functions_of_its_files():
  """A row of the numbered tables: | step | file | names in it, and what they do |."""
  page = ROOT / 'docs/find_your_way.md'
  rows = re.findall(r'^\| \d \| \[([\w./]+)\]\(\S+\) \| (.+) \|$', page.read_text(encoding='utf-8'), re.M)
  assert len(rows) >= 20
  for path, text in rows:
    names = re.findall(r'`(\w+)`', text.partition(';')[0].partition(':')[0])
    assert names and set(names) <= defined(ROOT / path), f'{path}: {names}'


def test_flags_names_every_job_and_every_environment_variable():
  page = (ROOT / 'docs/flags.md').read_text(encoding='utf-8')
  sources = [path for package in PACKAGES.split('|') for path in (ROOT / package).rglob('*.py')]
  sources += (ROOT / 'docs/notebooks').glob('*.py')
  missing = set()
  for source in sources:
    text = source.read_text(encoding='utf-8')
    missing |= {name for name in re.findall('ESPALIER_[A-Z]+(?:_[A-Z]+)*', text) if f'`{name}' not in page}
    job = '.'.join(source.relative_to(ROOT).with_suffix('').parts)
    if text.endswith("')\n") and '\n  launch.run(main, CONFIGS' in text and f'`{job}`' not in page:
      missing.add(job)
  assert not missing
