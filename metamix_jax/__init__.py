"""MetaMix in JAX: mixed-precision activation quantisation by a meta-state precision searcher.

A research fork builds with the names below; import everything else from its module. Each name is imported at its first
use, so a program that only reads the files of a run does not load the training stack.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
  from metamix_jax.errors import UserError
  from metamix_jax.export.run import export_run
  from metamix_jax.method.bops import LayerCost, gbops
  from metamix_jax.method.selection import most_probable_bits, select_within_target
  from metamix_jax.models.network import Network
  from metamix_jax.nn.batch_norm import BatchNorm
  from metamix_jax.nn.layers import QuantConv, QuantDense
  from metamix_jax.nn.scheme import LSQ, Placement, QuantizationScheme, Quantizer
  from metamix_jax.nn.tracing import trace_layers
  from metamix_jax.training.context import TrainingContext, prepare
  from metamix_jax.training.parallel import make_programs
  from metamix_jax.training.state import ArchState, MetaState, Teacher, create_arch_states, create_meta_state
  from metamix_jax.training.steps import (
    bit_meta_step,
    bit_search_step,
    bit_search_steps,
    evaluation_step,
    label_targets,
    teacher_targets,
    weight_step,
  )

# The module of each public name.
_MODULES = {
    "errors": ("UserError",),
    "export.run": ("export_run",),
    "method.bops": ("LayerCost", "gbops"),
    "method.selection": ("most_probable_bits", "select_within_target"),
    "models.network": ("Network",),
    "nn.batch_norm": ("BatchNorm",),
    "nn.layers": ("QuantConv", "QuantDense"),
    "nn.scheme": ("LSQ", "Placement", "QuantizationScheme", "Quantizer"),
    "nn.tracing": ("trace_layers",),
    "training.context": ("TrainingContext", "prepare"),
    "training.parallel": ("make_programs",),
    "training.state": ("ArchState", "MetaState", "Teacher", "create_arch_states", "create_meta_state"),
    "training.steps": (
        "bit_meta_step", "bit_search_step", "bit_search_steps", "evaluation_step", "label_targets", "teacher_targets",
        "weight_step"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
  if name not in _MODULE_OF:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
  return sorted([*globals(), *_MODULE_OF])
