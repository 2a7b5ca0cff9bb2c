"""The engine's device programs compiled for TPUs that are not here: nothing large is copied or gathered."""

import dataclasses
import math
import re

import jax
import pytest

from core import mesh
from core.engine import EngineSize
from core.plan import aot, chips, report
from internvl import configs
from internvl.plan import engine as plan

pytest.importorskip('libtpu', reason="compiling for a TPU needs the extra 'plan'")


@pytest.mark.slow
@pytest.mark.parametrize('program', ['decode', 'prefill'])
def test_device_programs_compile(program, monkeypatch):
  tiny = configs.CONFIGS['tiny']
  language = dataclasses.replace(
    tiny.language, width=4096, heads=8, kv_heads=4, head_dim=128, mlp_width=768, vocab=4096, depth=4, tied=False
  )
  monkeypatch.setitem(configs.CONFIGS, 'small', dataclasses.replace(tiny, language=language))
  room = EngineSize(slots=64, pages=512, page_size=128, segment=8, chunk=64)
  config = plan.Config('small', program, room, mesh=mesh.Shape(model=4))
  on = mesh.make(model=4, devices=chips.devices('v5p:2x2x1'))
  made = plan.plan_step(config, on)
  compiled = aot.compile_step(made, made.mesh)
  done = report.make('engine', made, made.mesh, chips.CHIPS['v5p'], compiled)
  assert done.fits and '64 slots, pages for 65,536 tokens' in report.text(done)

  whole = 2 * sum(math.prod(x.shape) for x in jax.tree.leaves(made.kinds['pages']))
  assert done.by_kind['pages'] == whole / 4  # by key heads
  memory, pool = compiled.memory, whole / 4 / 4 / 2  # of keys or of values, of one of the four layers
  # No second pool, no pages that all layers' tokens are written to, read at once, and no projections laid out anew.
  assert memory.alias >= whole / 4 and memory.temporary < 1.5 * pool
  # Each chip takes the kernel for its own key heads. Prefill needs the last layer's keys alone, not what they give.
  attending = language.depth - (program == 'prefill')
  assert compiled.text.count('custom_call_target="tpu_custom_call"') == attending
  gathered = re.findall(r'bf16\[([\d,]+)\]\S* all-gather', compiled.text)
  assert all(math.prod(map(int, shape.split(','))) < 4096 * 4096 / 4 for shape in gathered)  # not the head


def test_a_pod_holds_engines_side_by_side():
  devices = [type('Device', (), {'process_index': i // 4, 'platform': 'cpu'})() for i in range(16)]
  homes = mesh.groups(devices, 2, expert=2, model=4)
  assert [m.size for m in homes] == [8, 8]
  assert {d.process_index for d in homes[1].devices.flat} == {2, 3}
  with pytest.raises(ValueError, match='groups of 3'):
    mesh.groups(devices, 3)
