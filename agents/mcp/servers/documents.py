"""An MCP server that reads files under one folder: pdf, docx, pptx, xlsx, csv, html, images, archives, text.

python -m agents.mcp.servers.documents --root=attachments
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agents.mcp import documents
from core.launch import command
from core.launch.fields import field

if TYPE_CHECKING:
  from mcp.server.mcpserver import MCPServer

PIECE = 30_000  # characters of one reply
MAX_FILE = 100 << 20
MAX_LISTED = 500


def inside(root: Path, path: str) -> Path:
  """A file under `root`, links followed first. Raises ToolError for anything else."""
  from mcp.server.mcpserver.exceptions import ToolError

  try:
    found = (root / path).resolve(strict=True)
  except (OSError, ValueError, RuntimeError) as error:
    raise ToolError(f'{path[:200]!r}: no such file ({type(error).__name__})') from None
  if not found.is_relative_to(root) or not found.is_file():
    raise ToolError(f'{path[:200]!r}: not a file of the documents folder')
  return found


def build(root: str | os.PathLike) -> 'MCPServer':
  """The server over the files of a folder. Raises FileNotFoundError when there is none."""
  import anyio
  from mcp.server.mcpserver import Image, MCPServer
  from mcp.server.mcpserver.exceptions import ToolError

  base = Path(root).resolve(strict=True)
  server = MCPServer('documents', log_level='WARNING')

  def load(path: str) -> tuple[bytes, str]:
    file = inside(base, path)
    if file.stat().st_size > MAX_FILE:
      raise ToolError(f'{path}: {file.stat().st_size} bytes, more than {MAX_FILE}')
    return file.read_bytes(), file.suffix.lower()

  def text_of(path: str) -> str:
    try:
      return documents.read(*load(path))
    except documents.DocumentError as error:
      raise ToolError(f'{path}: {error}') from None

  def picture_of(path: str) -> Image:
    data, suffix = load(path)
    if suffix not in documents.IMAGES:
      raise ToolError(f'{path}: not an image; those end in {", ".join(sorted(documents.IMAGES))}')
    try:
      return Image(data=documents.thumbnail(data), format='png')
    except documents.DocumentError as error:
      raise ToolError(f'{path}: {error}') from None

  async def list_documents() -> str:
    """Lists the files that can be read, with their sizes in bytes."""
    files = sorted(p for p in base.rglob('*') if p.is_file() and p.resolve().is_relative_to(base))
    lines = [f'{p.relative_to(base)} ({p.stat().st_size})' for p in files[:MAX_LISTED]]
    more = len(files) - MAX_LISTED
    if more > 0:
      lines.append(f'[{more} more]')
    return '\n'.join(lines) or '(none)'

  async def read_document(path: str, start: int = 0) -> str:
    """Reads a file as text; tables as Markdown, PDFs page by page, of an image its size.

    Long files come in pieces: `start` is the character to begin at, as the end of a piece says.
    """
    return documents.piece(await anyio.to_thread.run_sync(text_of, path, abandon_on_cancel=True), start, PIECE)

  async def view_image(path: str) -> Image:
    """Shows an image file, at most 1024 pixels wide or high."""
    return await anyio.to_thread.run_sync(picture_of, path, abandon_on_cancel=True)

  for tool in (list_documents, read_document, view_image):
    server.add_tool(tool, structured_output=False)
  return server


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  root: str | None = field(None, 'the folder; nothing outside it is read')

  def __post_init__(self):
    if not self.root:
      raise ValueError('--root=FOLDER is needed')


def work(options: Options) -> None:
  """Serves a folder over standard input and output."""
  build(options.root).run()


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
