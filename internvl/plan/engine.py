"""The device programs of a rollout engine for `python -m core.plan --program=internvl.plan.engine`: abstract
throughout.

  python -m core.plan --program=internvl.plan.engine --config=8b --topology=v5p:2x2x1 [--config.program=prefill]

A topology of several hosts holds several engines, each on the devices of `processes` neighbouring hosts. They exchange
nothing while they decode, so one of them is compiled, on the devices that it takes.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from core import decoder, plan
from core.engine import device, pack
from core.engine import layout as weights
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.slot_requests import SlotRequests
from core.engine.size import EngineSize
from core.launch.fields import field
from core.mesh import Mesh, Shape, groups, sharding
from core.params import count
from core.past import pages
from core.plan import formula
from core.plan.aot import shard_bytes
from internvl.plan.training import size

BYTES = 2  # bfloat16


@dataclasses.dataclass(frozen=True)
class Config:
  """An engine for one size of InternVL3.5, weights and pages in bfloat16."""

  model: str = field('8B', 'size of the model')
  program: Literal['decode', 'prefill'] = field('decode', 'a segment of decoding, or a chunk of prompt tokens')
  engine: EngineSize = field(EngineSize(), 'size of the engine')
  processes: int = field(1, 'hosts that share an engine')
  mesh: Shape = field(Shape(), 'axes; what data has beyond the devices of one engine are further engines')


CONFIGS = {
  '8b': Config(
    '8B', engine=EngineSize(slots=128, pages=8192, page_size=128, segment=32, chunk=512), mesh=Shape(model=4)
  ),
  '241b': Config(
    '241B-A28B',
    engine=EngineSize(slots=128, pages=3072, page_size=128, segment=32, chunk=512),
    processes=2,
    mesh=Shape(expert=2, model=4),
  ),
}


def plan_step(config: Config, mesh: Mesh) -> plan.Program:
  """The program that the first engine on the devices of `mesh` runs, compiled on these alone.

  Raises plan.PlanError when `config.model` is not the name of a size, or hosts and axes do not fit.
  """
  home = groups(mesh.devices.flat, config.processes, **(dataclasses.asdict(config.mesh) | {'data': -1}))[0]
  c = size(config.model).language
  engine = config.engine
  here = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.NamedSharding(home, jax.P()))
  params = weights.abstract(c, 'bfloat16', home)
  k, v = pages.abstract(c, engine.pages, engine.page_size, 'bfloat16', home, weights.RULES)
  idle = Scheduler(engine.slots, engine.pages, engine.page_size, engine.segment, c.max_length)
  if config.program == 'decode':
    shape = engine.slots, c.vocab
    table = jax.ShapeDtypeStruct(shape, bool, sharding=sharding(shape, device.TABLE, home, weights.RULES))
    empty = np.zeros(engine.slots, bool), *SlotRequests(engine.slots, c.vocab).arrays()
    inputs = (*jax.tree.map(here, pack.segment(idle, *empty)), device.Tables(table, table))
    step = device.decode
    static = {'config': c, 'segment': engine.segment}
    work = _work(c, engine, home, rows=engine.slots, steps=engine.segment, pools=shard_bytes((k, v)))
  else:
    prompts = pack.prompts(idle, [], engine.chunk, engine.chunk)
    tokens = prompts.names.astype(np.int32)
    features = np.zeros((engine.chunk, c.width), jnp.bfloat16), np.zeros(engine.chunk, bool)
    at = prompts.positions, prompts.page, prompts.offset
    inputs = jax.tree.map(here, (prompts.plan, tokens, *at, *features))
    step = device.prefill
    static = {'config': c}
    work = _work(c, engine, home, rows=engine.chunk, steps=1, pools=shard_bytes((k, v)))
  kinds = {'weights': params, 'pages': (k, v), 'inputs': inputs}
  return plan.Program(
    step,
    (params, k, v, *inputs),
    kinds,
    (),
    engine.slots,
    static=static,
    mesh=home,
    counted=work,
    tips=_tips(config, kinds),
    note=_note(config, mesh.size // home.size),
  )


def _note(config: Config, engines: int) -> str:
  engine = config.engine
  tokens = engine.pages * engine.page_size
  note = f'{engine.slots} slots, pages for {tokens:,} tokens'
  if engines > 1:
    note += f'; one of {engines} equal engines'
  return note


def _tips(config: Config, kinds: dict) -> tuple[str, ...]:
  held = shard_bytes(kinds['weights'])
  engine = config.engine
  return (
    f'fewer pages: {engine.pages} of {engine.page_size} tokens take {shard_bytes(kinds["pages"]) / 2**30:.2f} GiB',
    f'more devices in expert or model: the weights take {held / 2**30:.2f} GiB',
  )


def _work(c: decoder.Config, engine: EngineSize, home: Mesh, *, rows: int, steps: int, pools: int) -> formula.Work:
  """Of `steps` steps of `rows` tokens with all pages in use, each by one row; every expert is met."""
  spec = decoder.spec(c)
  axes = home.shape
  active = 1.0
  if c.moe:
    active = c.moe.top_k / c.moe.experts
  found = formula.weights(plan.Part('', spec, rows, 0.0, active=active), home)
  met = round(sum(w.active for w in found))
  attention = 4.0 * c.heads * c.head_dim * c.depth * engine.pages * engine.page_size
  flops = steps * (2.0 * rows * met + attention)
  hbm = {'weights': steps * BYTES * sum(w.needed for w in found), 'pages': float(steps * pools)}
  # Two sums over `model` a layer; with experts the second is of all rows, gathered from `expert` and scattered back.
  ring = lambda axis: 2 * (axes[axis] - 1) / axes[axis]
  own = rows / axes['expert']
  sent = steps * BYTES * c.width * c.depth
  ici = {
    'tensor axis': sent * ring('model') * (own + (rows if c.moe else own)),
    'expert axis': sent * ring('expert') * (rows if c.moe else 0),
  }
  return formula.Work(count(spec), met, flops, flops, hbm, {axis: x for axis, x in ici.items() if x})
