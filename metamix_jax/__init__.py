"""MetaMix in JAX: mixed-precision activation quantisation by a meta-state precision searcher.

What a research fork builds with. Anything else is reached through its module.
"""

from metamix_jax.method.bops import LayerCost, gbops
from metamix_jax.method.selection import most_probable_bits, select_within_target
from metamix_jax.nn.batch_norm import BatchNorm
from metamix_jax.nn.layers import LSQ, QuantConv, QuantDense, QuantizationScheme, Quantizer, trace_layers
from metamix_jax.training.parallel import make_programs
from metamix_jax.training.state import (
    ArchState,
    MetaState,
    Network,
    Teacher,
    create_arch_states,
    create_meta_state,
)
from metamix_jax.training.steps import (
    bit_meta_step,
    bit_search_step,
    bit_search_steps,
    evaluation_step,
    label_targets,
    teacher_targets,
    weight_step,
)

__version__ = "0.1.0"

__all__ = [
    "ArchState", "BatchNorm", "LSQ", "LayerCost", "MetaState", "Network", "QuantConv", "QuantDense",
    "QuantizationScheme", "Quantizer", "Teacher", "bit_meta_step", "bit_search_step", "bit_search_steps",
    "create_arch_states", "create_meta_state", "evaluation_step", "gbops", "label_targets", "make_programs",
    "most_probable_bits", "select_within_target", "teacher_targets", "trace_layers", "weight_step",
]
