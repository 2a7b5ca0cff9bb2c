"""`transformers` behind the simplest server: one thread calls `generate` on the requests that wait.

  python -m bench.perf.serving.simple_server FOLDER BATCH

BATCH 1 answers one request after the other; a larger one pads up to BATCH waiting requests on the left and generates as
many tokens as the longest of them wants. Greedy text completions of token ids only.
"""

import concurrent.futures
import http.server
import json
import queue
import sys
import threading
from typing import NamedTuple

import torch
import transformers


class Job(NamedTuple):
  """A request that waits for its text."""

  prompt: list[int]
  tokens: int
  done: concurrent.futures.Future


class Generator:
  """Answers jobs in a thread, up to `batch` at a time."""

  def __init__(self, folder: str, batch: int):
    self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    self._batch = batch
    self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    threading.Thread(target=self._run, daemon=True).start()

  def _run(self) -> None:
    while True:
      jobs = [self.jobs.get()]
      while len(jobs) < self._batch and not self.jobs.empty():
        jobs.append(self.jobs.get())
      for job, text in zip(jobs, self._texts(jobs)):
        job.done.set_result(text)

  @torch.inference_mode()
  def _texts(self, jobs: list[Job]) -> list[str]:
    longest = max(len(job.prompt) for job in jobs)
    end = self._tokenizer.eos_token_id
    padding = [longest - len(job.prompt) for job in jobs]
    ids = torch.tensor([[end] * spare + job.prompt for spare, job in zip(padding, jobs)])
    rows = [[0] * spare + [1] * len(job.prompt) for spare, job in zip(padding, jobs)]
    mask = torch.tensor(rows)
    limits = {'max_new_tokens': max(job.tokens for job in jobs), 'eos_token_id': end, 'pad_token_id': end}
    out = self._model.generate(ids, attention_mask=mask, do_sample=False, **limits)
    said = [row[longest : longest + job.tokens].tolist() for row, job in zip(out, jobs)]
    return self._tokenizer.batch_decode(said, skip_special_tokens=True)


def handler(generator: Generator) -> type[http.server.BaseHTTPRequestHandler]:
  """A handler that answers POST requests from a generator."""

  class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_POST(self):
      """Any path is a text completion."""
      body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
      job = Job(body['prompt'], body['max_tokens'], concurrent.futures.Future())
      generator.jobs.put(job)
      reply = json.dumps({'choices': [{'text': job.done.result()}]}).encode()
      self.send_response(200)
      self.send_header('Content-Length', str(len(reply)))
      self.end_headers()
      self.wfile.write(reply)

    def log_message(self, *_):
      """Nothing: a line a request would count against this server."""

  return Handler


def main(folder: str, batch: str) -> None:
  """Serves until it is killed."""
  torch.set_num_threads(1)
  generator = Generator(folder, int(batch))
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler(generator)) as server:
    print(f'listening on http://127.0.0.1:{server.server_port}', flush=True)
    server.serve_forever()


if __name__ == '__main__':
  main(*sys.argv[1:])
