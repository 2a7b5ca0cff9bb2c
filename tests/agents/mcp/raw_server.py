"""A server that speaks the protocol by hand, so that it can also break it; started by tests as its own process."""

import json
import os
import sys
import time


def send(value):
  os.write(1, json.dumps(value).encode() + b'\n')


def text(words):
  return {'content': [{'type': 'text', 'text': words}]}


def junk(lines):
  for i in range(lines):
    os.write(1, b'{"jsonrpc": "2.0", "junk": %d\n' % i)
  return text('answered')


def flood():
  for _ in range(320):  # 20 MB without an end of line
    os.write(1, b'x' * 65536)
  time.sleep(600)


def close():
  os.close(1)
  time.sleep(600)


def binary():
  os.write(1, b'\xff\xfe\x00\x80' * 50 + b'\n')
  time.sleep(600)


def half():
  os.write(1, b'{"jsonrpc": "2.0", "id": 1, "result": {"content": [')
  os._exit(0)


PICTURE = {
  'content': [
    {'type': 'text', 'text': 'seen'},
    {'type': 'image', 'data': 'AAAA', 'mimeType': 'image/png'},
    {'type': 'text', 'text': 'end'},
  ]
}
PAGE = {'uri': 'file:///page', 'mimeType': 'text/plain', 'text': 'the page'}
DATA = {'uri': 'file:///data', 'mimeType': 'x/y', 'blob': 'AAAA'}
RESOURCES = {
  'content': [
    {'type': 'resource', 'resource': PAGE},
    {'type': 'resource', 'resource': DATA},
    {'type': 'resource_link', 'name': 'more', 'uri': 'file:///more'},
  ]
}
TOOLS = {
  'resources': lambda: RESOURCES,
  'structured': lambda: {'content': [], 'structuredContent': {'sum': 5}},
  'echo': lambda text_: text(text_),
  'junk': junk,
  'binary': binary,
  'flood': flood,
  'half': half,
  'close': close,
  'wrong': lambda: {'content': 'no list'},
  'surrogate': lambda: text('\ud800'),
  'picture': lambda: PICTURE,
}


def answer(method, params):
  if method == 'initialize':
    return {
      'protocolVersion': params['protocolVersion'],
      'capabilities': {'tools': {}},
      'serverInfo': {'name': 'raw', 'version': '0'},
    }
  if method == 'tools/list':
    return {'tools': [{'name': name, 'inputSchema': {'type': 'object'}} for name in TOOLS]}
  if method == 'tools/call':
    arguments = params.get('arguments') or {}
    return TOOLS[params['name']](*arguments.values())
  return None


for line in sys.stdin:
  message = json.loads(line)
  if 'id' not in message:
    continue
  result = answer(message['method'], message.get('params') or {})
  outcome = {'error': {'code': -32601, 'message': 'unknown method'}} if result is None else {'result': result}
  send({'jsonrpc': '2.0', 'id': message['id'], **outcome})
