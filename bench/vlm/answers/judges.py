"""What a judge is asked about answers that no rule can read. The wordings are ours."""

from pathlib import Path

from bench.harness.judge import Judge, Template
from bench.harness.literals import MAX_CHARS

OPTION = Template("""\
A model was asked a multiple-choice question. Say which option its answer means.
If the answer matches none of them, or commits to none, say Z.

Question: Which of these is a fruit? Options: A. granite; B. pear; C. lamp. Answer: the pear
Option: B
Question: What is shown? Options: A. a tram; B. a ferry. Answer: I cannot see any image.
Option: Z

Question: $question Options: $options Answer: $answer
Option:""")

SHORT_ANSWER = Template("""\
Copy the final answer out of a model's response to a question about a picture, as briefly as the question
allows: a letter, a number, a list or a few words. Write nothing else; without an answer, write None.

Question: How many cups are there? (an integer) Response: There are two on the left and three more, so five.
Answer: 5
Question: What is the slope? (a number with 2 decimals) Response: rise over run is 1/4, that is 0.25 in total
Answer: 0.25
Question: Which bar is taller? Choices: (A) left (B) right Response: The left one is clearly the taller bar.
Answer: A
Question: Between which years did sales fall? (a list) Response: from 2003 to 2005
Answer: [2003, 2005]
Question: Is the sum positive? Choices: (A) Yes (B) No Response: All terms are below zero, hence it is not.
Answer: B

Question: $question Response: $response
Answer:""")


def read_option(text: str) -> str:
  """One capital letter. Raises ValueError for anything else."""
  word = text.strip().removeprefix('Option:').strip(' \t\n.:()[]*')
  if len(word) != 1 or not 'A' <= word <= 'Z':
    raise ValueError(f'the judge named no option: {text[:40]!r}')
  return word


def read_short_answer(text: str) -> str:
  """The extracted answer. Raises ValueError for an empty or endless reply."""
  answer = text.strip().removeprefix('Answer:').strip()
  if not answer or len(answer) > min(2_000, MAX_CHARS):
    raise ValueError('the judge extracted nothing')
  return answer


def option_judge(model, judgements: str) -> Judge | None:
  """A judge that reads the chosen option from free text."""
  if judgements:
    return Judge(model, OPTION, read_option, Path(judgements), attempts=3)
  return None


def short_answer_judge(model, judgements: str) -> Judge | None:
  """A judge that extracts the short answer from free text."""
  if judgements:
    return Judge(model, SHORT_ANSWER, read_short_answer, Path(judgements))
  return None
