"""Fine-tuning on one task after another, without any intervention."""

from sfa.methods.base import Look, Method


class Sequential(Method):
    """Plain fine-tuning, task after task."""

    name = "sequential"
    is_plain = True
    acts_on_one_task = True
    look = Look(
        style={
            "color": "white",
            "markeredgecolor": "#767676",
            "markeredgewidth": 1.8,
            "linestyle": "none",
            "marker": "o",
            "markersize": 8,
        },
    )
