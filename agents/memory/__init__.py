"""Case memory after Memento (arXiv 2508.16153): a bank of finished tasks and a learned choice among them."""

from agents.memory.cases import Case, CaseBank, Found
from agents.memory.encoders import HashEncoder, SentenceEncoder
from agents.memory.jsonl import export_jsonl, import_jsonl
from agents.memory.memory import Memory, Reading

__all__ = [
  'Case',
  'CaseBank',
  'Found',
  'HashEncoder',
  'Memory',
  'Reading',
  'SentenceEncoder',
  'export_jsonl',
  'import_jsonl',
]
