"""What all pictures share: fonts, the colours of tasks, which way is better, and how they are saved."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

STYLE: Any = {  # readable where a picture is shown at half its size
    "font.size": 10,
    "axes.labelsize": 10.5,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "pdf.fonttype": 42,
}
# Of tasks, for the colour-blind: the scheme "muted" of Paul Tol, without a colour of a method.
COLOURS = ["#332288", "#CC6677", "#44AA99", "#999933", "#882255", "#88CCEE"]
MARKERS = "osD^vP"


@contextmanager
def style() -> Iterator[None]:
    """Draws in the suite's style; other pictures of the process keep theirs. Also a decorator."""
    with matplotlib.rc_context(STYLE):
        yield


def better(is_loss: bool) -> str:
    """The end of an axis label: an arrow towards better values, on the side that it points to."""
    return "← lower is better" if is_loss else "higher is better →"


def save(picture: Figure, out: Path) -> Path:
    """Writes ``out``, a PNG, and the same figure as a PDF next to it, and closes it."""
    picture.savefig(out)
    picture.savefig(out.with_suffix(".pdf"), metadata={"CreationDate": None})
    plt.close(picture)
    return out
