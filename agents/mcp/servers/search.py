"""An MCP server that searches: a SearxNG instance, or a file of documents on this machine.

python -m agents.mcp.servers.search --searx=http://127.0.0.1:8080
python -m agents.mcp.servers.search --corpus=passages.jsonl        # {"title", "text", "url"?} a line
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from core.launch import command
from core.launch.fields import field
from core.text import clean, parse_json

if TYPE_CHECKING:
  from mcp.server.mcpserver import MCPServer

SNIPPET = 500  # characters
MAX_RESULTS = 50
TIMEOUT = 20.0  # seconds for one search


@dataclasses.dataclass(frozen=True)
class Hit:
  """One result of a search."""

  title: str
  url: str
  snippet: str


class Search(Protocol):
  """A source that finds documents for words. Raises SearchError."""

  def __call__(self, query: str, count: int) -> list[Hit]: ...


class SearchError(RuntimeError):
  """A search that could not be made; the message says why."""


class Searx:
  """A SearxNG instance, through its JSON interface."""

  def __init__(self, url: str, *, transport=None):
    import httpx

    self._url = url.rstrip('/')
    self._http = httpx
    self._client = httpx.Client(timeout=TIMEOUT, transport=transport)

  def __call__(self, query: str, count: int) -> list[Hit]:
    try:
      reply = self._client.get(f'{self._url}/search', params={'q': query, 'format': 'json'})
      reply.raise_for_status()
      found = parse_json(reply.text)['results']
      text = lambda r, field: clean(str(r.get(field) or ''))
      return [Hit(text(r, 'title'), text(r, 'url'), text(r, 'content')[:SNIPPET]) for r in found[:count]]
    except (self._http.HTTPError, self._http.InvalidURL, ValueError, KeyError, TypeError, AttributeError) as error:
      raise SearchError(f'the search engine gave no usable answer ({type(error).__name__}: {error})') from None


class Corpus:
  """Documents of a JSON-lines file, ranked by the cosine of their TF-IDF vectors. Raises ValueError on a bad line."""

  def __init__(self, path: str | os.PathLike):
    from sklearn.feature_extraction.text import TfidfVectorizer

    self._hits = []
    texts = []
    for number, line in enumerate(Path(path).read_text(encoding='utf-8').splitlines(), 1):
      row = parse_json(line) if line.strip() else None
      if row is None:
        continue
      if not isinstance(row, dict) or not isinstance(row.get('text'), str):
        raise ValueError(f'{path}:{number}: expected an object with a "text"')
      title = str(row.get('title') or '')
      self._hits.append(Hit(title, str(row.get('url') or ''), row['text'][:SNIPPET]))
      texts.append(f'{title}\n{row["text"]}')
    if not texts:
      raise ValueError(f'{path}: holds no document')
    self._tfidf = TfidfVectorizer(sublinear_tf=True, token_pattern=r'(?u)\w+')
    self._matrix = self._tfidf.fit_transform(texts)

  def __call__(self, query: str, count: int) -> list[Hit]:
    scores = (self._matrix @ self._tfidf.transform([query]).T).toarray()[:, 0]
    best = [i for i in (-scores).argsort(kind='stable')[:count] if scores[i] > 0]
    return [self._hits[i] for i in best]


def build(find: Search) -> 'MCPServer':
  """The server over a search."""
  import anyio
  from mcp.server.mcpserver import MCPServer
  from mcp.server.mcpserver.exceptions import ToolError

  server = MCPServer('search', log_level='WARNING')

  async def search(query: str, num_results: int = 10) -> str:
    """Searches for documents and returns the title, address and first words of each."""
    count = min(max(1, num_results), MAX_RESULTS)
    try:
      hits = await anyio.to_thread.run_sync(find, query, count, abandon_on_cancel=True)
    except SearchError as error:
      raise ToolError(str(error)) from None
    lines = (f'{n}. {hit.title}\n{hit.url}\n{hit.snippet}' for n, hit in enumerate(hits, 1))
    return '\n\n'.join(lines) or 'Nothing was found.'

  server.add_tool(search, structured_output=False)
  return server


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  searx: str | None = field(None, 'address of a SearxNG instance whose JSON format is switched on')
  corpus: str | None = field(None, 'JSON-lines file of documents')

  def __post_init__(self):
    if bool(self.searx) == bool(self.corpus):
      raise ValueError('exactly one of --searx and --corpus is needed')


def work(options: Options) -> None:
  """Serves over standard input and output."""
  build(Searx(options.searx) if options.searx else Corpus(options.corpus)).run()


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
