"""An MCP server that reads web pages as Markdown.

python -m agents.mcp.servers.crawl
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agents.mcp import documents
from agents.mcp.web import FetchError, Page, fetch
from core.launch import command
from core.launch.fields import field

if TYPE_CHECKING:
  from mcp.server.mcpserver import MCPServer

PIECE = 30_000  # characters of one reply


def readable(page: Page) -> str:
  """A page as text, by its media type. Raises documents.DocumentError for kinds that are not read."""
  if page.kind in ('text/html', 'application/xhtml+xml', ''):
    return documents.markdown(page.body, page.encoding)
  if page.kind.startswith('text/') or page.kind in ('application/json', 'application/xml'):
    return page.body.decode(page.encoding or 'utf-8', 'replace')
  suffix = documents.SUFFIX_OF.get(page.kind)
  if suffix is None:
    raise documents.DocumentError(f'{page.url}: {page.kind} is not read')
  return documents.read(page.body, suffix)


def build(*, private: bool = False, get=fetch) -> 'MCPServer':
  """The server. private: allow hosts inside the network. get(url, private=…) → Page."""
  import anyio
  from mcp.server.mcpserver import MCPServer
  from mcp.server.mcpserver.exceptions import ToolError

  server = MCPServer('crawl', log_level='WARNING')

  async def crawl_page(url: str, start: int = 0) -> str:
    """Reads a web page or an online document as Markdown.

    Long pages come in pieces: `start` is the character to begin at, as the end of a piece says.
    """

    def work() -> str:
      try:
        return readable(get(url, private=private))
      except (FetchError, documents.DocumentError, RecursionError, LookupError) as error:
        raise ToolError(str(error) or type(error).__name__) from None

    return documents.piece(await anyio.to_thread.run_sync(work, abandon_on_cancel=True), start, PIECE)

  server.add_tool(crawl_page, structured_output=False)
  return server


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  private: bool = field(False, 'allow hosts that are not on the public internet')


def work(options: Options) -> None:
  """Serves over standard input and output."""
  build(private=options.private).run()


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
