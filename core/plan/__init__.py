from core.plan.program import Part, Program

__all__ = ['Part', 'Program']
