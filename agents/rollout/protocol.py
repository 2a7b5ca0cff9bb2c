"""How a policy and its tools talk: the turns of a tool conversation as text and as token ids, and the reading of calls.

Qwen/Hermes-style chat markup with calls as JSON between tags, as rStar2-Agent uses it (arXiv 2508.20722, §2). What
users and tools say is encoded as plain text: it can forge no turn, no call and no end of a response.
"""

from collections.abc import Sequence

from agents.toolbox import schema
from core.conversations.tool_calls import CALL, END_CALL, END_RESPONSE, RESPONSE, described, written
from core.files.tokenizers import TextEncoder, token_id
from core.text import clean

START = '<|im_start|>'
END = '<|im_end|>'
REASON = '<reason>'
END_REASON = '</reason>'
ANSWER = '<answer>'
END_ANSWER = '</answer>'
WRITTEN = (CALL, END_CALL, REASON, END_REASON, ANSWER, END_ANSWER)  # by the model
TAGS = (START, END, CALL, END_CALL, RESPONSE, END_RESPONSE, REASON, END_REASON, ANSWER, END_ANSWER)

PYTHON = 'execute_python_code_with_standard_io'  # the tool's name in the paper

SYSTEM = (
  f'A user asks a question and you, the assistant, solve it. First think it through, inside {REASON} and {END_REASON}; '
  f'then give the answer, inside {ANSWER} and {END_ANSWER}.'
)
PREAMBLE = f'Put the answer inside {ANSWER} and {END_ANSWER}, its value as \\boxed{{}}.\n\n'


def python_schema(name: str = PYTHON) -> dict:
  """The Python tool as the chat-completions interface describes it."""
  text = {'type': 'string'}
  return schema(
    name,
    'Runs Python and returns what it prints, with the value of a last expression.',
    {
      'type': 'object',
      'properties': {
        'code': {**text, 'description': 'the program'},
        'input': {**text, 'description': 'its standard input'},
      },
      'required': ['code', 'input'],
    },
  )


def system_text(tools: Sequence[dict]) -> str:
  """The system turn that explains the format and lists the tools."""
  return f'{SYSTEM}\n\n{described(tools)}'


def call_text(name: str, arguments: dict) -> str:
  """A call as the model is to write it."""
  return written(name, arguments)


class Protocol:
  """A tokenizer's view of the conversation.

  system, preamble: the text of the system turn (none if empty) and before the problem. opening: what each assistant
  turn is primed with. markup: special tokens of the vocabulary that stand for ordinary text and may appear in content.
  """

  def __init__(
    self, tokenizer, *, system: str = '', preamble: str = '', opening: str = REASON, markup: Sequence[str] = ()
  ):
    self.tokenizer = tokenizer
    self.system = system
    self.preamble = preamble
    self.opening = opening
    self.stop_id = token_id(tokenizer, END)
    self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.stop_id
    self._plain = TextEncoder(tokenizer, structural=TAGS, markup=markup)

  def prompt(self, problem: str) -> list[int]:
    """Token ids up to where the assistant begins."""
    ids = []
    if self.system:
      ids = self._turn('system', self._plain(self.system))
    content = self._plain(self.preamble) + self._plain(clean(problem))
    return ids + self._turn('user', content) + self._begin()

  def tool_turn(self, responses: Sequence[str]) -> list[int]:
    """What follows an assistant turn with calls, up to where the next one begins.

    It starts right after the end-of-turn token, without the newline of a full rendering.
    """
    inner = []
    for n, response in enumerate(responses):
      inner += self._marks('\n' * bool(n) + f'{RESPONSE}\n') + self._plain(clean(response))
      inner += self._marks(f'\n{END_RESPONSE}')
    return self._turn('user', inner) + self._begin()

  def assistant(self, text: str) -> list[int]:
    """An assistant turn as the model would have sampled it after the opening: tags are tags, the end included."""
    return self._marks(clean(text) + END)

  def text(self, ids: Sequence[int]) -> str:
    """The text of token ids, tags and markers kept."""
    return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

  def said(self, ids: Sequence[int]) -> str:
    """`text` of an assistant turn without its end marker."""
    if len(ids) and ids[-1] == self.stop_id:
      ids = ids[:-1]
    return self.text(ids)

  def _marks(self, text: str) -> list[int]:
    return self.tokenizer.encode(text, add_special_tokens=False)

  def _turn(self, role: str, content: list[int]) -> list[int]:
    start = self._marks(f'{START}{role}\n')
    end = self._marks(f'{END}\n')
    return start + content + end

  def _begin(self) -> list[int]:
    return self._marks(f'{START}assistant\n{self.opening}')
