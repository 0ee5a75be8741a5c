"""L1 regression towards θ_o."""

from sfa.methods.base import Look
from sfa.methods.l2 import Penalized


class L1(Penalized):
    """λ·‖θ − θ_o‖₁."""

    name = "l1"
    kind = "l1"
    look = Look("L1", {"color": "#56B4E9", "linestyle": ":", "marker": "v"})
