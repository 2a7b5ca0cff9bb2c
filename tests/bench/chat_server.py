"""A chat-completions server on this machine whose replies a test decides."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text, finish='stop'):
  return 200, json.dumps({'choices': [{'message': {'content': text}, 'finish_reason': finish}]}).encode()


@contextlib.contextmanager
def serve(reply):
  """The address of a server and the requests it got.

  reply(number of the request, body) gives (status, bytes), or None for no reply.
  """

  class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
      pass

    def do_GET(self):
      self._send(200, json.dumps({'data': [{'id': 'fake'}]}).encode())

    def do_POST(self):
      body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
      with lock:
        requests.append(body)
        number = len(requests)
      answer = reply(number, body)
      if answer is None:
        self.close_connection = True
      else:
        self._send(*answer)

    def _send(self, status, raw):
      with contextlib.suppress(ConnectionError):
        self.send_response(status)
        self.send_header('Content-Length', str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

  requests, lock = [], threading.Lock()
  server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
  thread.start()
  try:
    yield f'http://127.0.0.1:{server.server_port}/v1', requests
  finally:
    server.shutdown()
    server.server_close()
    thread.join()


def question(body):
  """The text of the last turn."""
  content = body['messages'][-1]['content']
  return content if isinstance(content, str) else ' '.join(part.get('text', '') for part in content)
