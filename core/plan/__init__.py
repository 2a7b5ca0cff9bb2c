"""Plans: a step compiled ahead of time for TPUs or GPUs, on a machine without one.

`python -m core.plan --program=internvl.train --config=8b_sft --topology=v5p:4x8x8`

A program is a module with `CONFIGS` (name → frozen dataclass, with a field `mesh` of `core.mesh.Shape`) and
`plan_step(config, mesh) -> Program`.
"""

from core.plan.chips import PlanError
from core.plan.program import Part, Program

__all__ = ['Part', 'PlanError', 'Program']
