"""Tensor names of what a Flash checkpoint adds: the compact projector and the router.

They are published in the original layout alone. Stages 3 and 4 of the pooling are in the files and never used.
"""

from core import encoder
from core.files.weights import From
from internvl.flash import compact, router

COMPACT_WEIGHT = 'mlp2.1.weight'  # only Flash checkpoints have it


def compact_names() -> compact.Params:
  """Names of the compact projector."""
  return compact.Params(
    norm=From('mlp2.0.weight'),
    norm_bias=From('mlp2.0.bias'),
    up=From(COMPACT_WEIGHT, 'o i -> i o'),
    up_bias=From('mlp2.1.bias'),
    mid=From('mlp2.4.weight', 'o i -> i o'),
    mid_bias=From('mlp2.4.bias'),
    out=From('mlp2.7.weight', 'o i -> i o'),
    out_bias=From('mlp2.7.bias'),
  )


def router_names() -> router.Params:
  """Names of the router."""
  at = 'pooling_before_gating.'
  pooling = router.Pooling(
    query=From(f'{at}query_token', '1 d -> d'),
    first=_stage(f'{at}attn1', f'{at}norm1'),
    repeated=_stage(f'{at}attn2', f'{at}norm2'),
    unused3=_stage(f'{at}attn3', f'{at}norm3'),
    unused4=_stage(f'{at}attn4', f'{at}norm4'),
  )
  gating = router.Gating(
    block1=_block('gating.block1'),
    block2=_block('gating.block2'),
    block3=_block('gating.block3'),
    block4=_block('gating.block4'),
    norm=_norm('gating.gate.0'),
    out=From('gating.gate.1.weight', 'o i -> i o'),
    out_bias=From('gating.gate.1.bias'),
  )
  return router.Params(pooling=pooling, gating=gating)


def _norm(at: str) -> encoder.Norm:
  return encoder.Norm(scale=From(f'{at}.weight'), bias=From(f'{at}.bias'))


def _stage(attn: str, norm: str) -> router.Stage:
  into = [From(f'{attn}.in_proj_weight', '(part n h) d -> part d n h', part, 3) for part in range(3)]
  bias = [From(f'{attn}.in_proj_bias', '(part n h) -> part n h', part, 3) for part in range(3)]
  attention = encoder.Attention(
    q=into[0],
    k=into[1],
    v=into[2],
    o=From(f'{attn}.out_proj.weight', 'd (n h) -> n h d'),
    q_bias=bias[0],
    k_bias=bias[1],
    v_bias=bias[2],
    o_bias=From(f'{attn}.out_proj.bias'),
  )
  return router.Stage(attn=attention, norm=_norm(norm))


def _block(at: str) -> router.Block:
  return router.Block(
    up=From(f'{at}.0.weight', 'o i -> i o'),
    up_bias=From(f'{at}.0.bias'),
    down=From(f'{at}.3.weight', 'o i -> i o'),
    down_bias=From(f'{at}.3.bias'),
    norm=_norm(f'{at}.5'),
  )
