"""Graph + shapes + CPU → Plan: kernel selection, weight packing, arena."""

from .lowering import PackCache
from .plan import Plan, annotate, check_outputs, make_plan, too_few

__all__ = ["PackCache", "Plan", "annotate", "check_outputs", "make_plan", "too_few"]
