"""Where the corrections of linear layers are dealt: behind the pools and sums that follow, which leave fewer elements.

Until then a value has three parts: Delta * rho at P0, A * rho at D, and P1's. A pool, or a sum of such values,
applies to each part alike. Other steps read corrected values only: in a sum with a value whose mask P0 and D both
know, that mask would count twice.
"""

from collections import Counter

from secure_computation.engines.masked.plan.masked_lowering import MaskedLowering
from secure_computation.engines.masked.plan.steps import AddStep, LinearStep, SumPoolStep


def find_corrected(lowering: MaskedLowering) -> frozenset[str]:
    """Names of the values for which D deals a correction: of each linear layer one, or one for several. Public."""
    readers = Counter(name for step in lowering.steps for name in set(step.inputs))
    readers[lowering.output] += 1
    elements: dict[str, int] = {}
    for step in lowering.steps:
        if isinstance(step, LinearStep):
            elements[step.name] = step.elements
        elif isinstance(step, SumPoolStep | AddStep):
            sources = set(step.inputs)
            alone = sources <= elements.keys() and all(readers[name] == 1 for name in sources)
            if alone and step.elements <= sum(elements[name] for name in sources):
                for name in sources:
                    del elements[name]
                elements[step.name] = step.elements
    return frozenset(elements)
