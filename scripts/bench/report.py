"""The table and pictures of ``bench.json``."""

import json
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from tabulate import tabulate

from scripts.bench.measure import HardwareRecord, RowRecord

HEAD = ["line", "case", "ours", "against", "it", "ratio", "bound", ""]
VERDICTS = {True: "holds", False: "**missed**", None: "–"}
COLOURS = {True: "#009E73", False: "#D55E00", None: "0.5"}


def write(file: Path) -> None:
    """Writes ``<file>.md`` and, for each hardware in it, a picture next to ``file``."""
    content: dict[str, HardwareRecord] = json.loads(file.read_text())
    sections = []
    for hardware, record in content.items():
        picture = file.with_name(f"{file.stem}{'' if record['device'] == 'cpu' else '_' + record['device']}.png")
        _draw(hardware, record, picture)
        sections.append(_table(hardware, record, picture))
    file.with_suffix(".md").write_text("# What it costs\n\n" + "\n\n".join(sections) + "\n")


def _table(hardware: str, record: HardwareRecord, picture: Path) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    lines = [
        f"## {hardware}",
        "",
        f"`python -m scripts.bench --device {record['device']} --data-folder DIR`; {versions}. Both are measured "
        "alternately; the ratio is the median of the rounds' ratios, with the lowest and the highest.",
        "",
        f"![Each ratio against its bound]({picture.name})",
        "",
    ]
    rows = []
    for name, line in record["lines"].items():
        if "missing" in line:
            rows.append([name, f"not measured: {line['missing']}"])
        rows += [_row(row, line["date"]) for row in line.get("rows", [])]
    return "\n".join([*lines, tabulate(rows, HEAD, tablefmt="github", disable_numparse=True)])


def _row(row: RowRecord, date: str) -> list[str]:
    unit, median, ratio = row["unit"], row["median"], row["ratio"]
    ours = "" if not row["other"] else _number(median["ours"], unit)
    other = "" if median["other"] is None else _number(median["other"], unit)
    bounds = f" [{ratio['low']:.3g}, {ratio['high']:.3g}]" if len(row["ours"]) > 1 else ""
    value = f"{ratio['median']:.3g}{bounds}" + (f" {unit}" if not row["other"] and unit else "")
    sign = {"at most": "≤", "at least": "≥"}[row["sense"]]
    bound = "" if row["bound"] is None else f"{sign} {row['bound']:.3g}"
    case = row["case"] + (f" ({row['note']})" if row["note"] else "")
    return [f"{row['line']}, {date}", case, ours, row["against"], other, value, bound, VERDICTS[row["holds"]]]


def _number(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 2**20:.4g} MiB"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
    return f"{value:.3g} {unit}".strip()


def _draw(hardware: str, record: HardwareRecord, out: Path) -> None:
    rows = [row for line in record["lines"].values() for row in line.get("rows", []) if row["bound"] and row["other"]]
    rows = [row for row in rows if not row["line"].startswith("how ")]
    growth_rows = record["lines"]["growth"].get("rows", []) if "growth" in record["lines"] else []
    growth = [row for row in growth_rows if row["line"] == "how a merge's cost grows"]
    stream = [row for row in growth_rows if row["line"].startswith("how a stage")]
    top = 1.2 + 0.27 * len(rows)
    figure = plt.figure(figsize=(11, top + (3.0 if growth else 0)), layout="constrained")
    layout = figure.add_gridspec(2 if growth else 1, 1, height_ratios=[top, 3.0] if growth else None)
    _bounds(figure.add_subfigure(layout[0]).subplots(), rows)
    if growth:
        left, right = figure.add_subfigure(layout[1]).subplots(1, 2)
        _over_parameters(left, growth)
        _over_stream(right, stream)
    figure.suptitle(f"Cost against its bound: {hardware}", fontsize=11)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def _bounds(ax: Axes, rows: list[RowRecord]) -> None:
    """Each ratio relative to its bound, on a logarithmic axis; left of the line, the bound is met."""
    for i, row in enumerate(rows):
        ratio, bound = row["ratio"], row["bound"]
        assert bound is not None, "rows without one are not drawn"
        numbers = (ratio["low"], ratio["median"], ratio["high"])
        low, mid, high = sorted(value / bound if row["sense"] == "at most" else bound / value for value in numbers)
        ax.plot([low, high], [i, i], color=COLOURS[row["holds"]], linewidth=2)
        ax.plot([mid], [i], "o", color=COLOURS[row["holds"]], markersize=5)
        sign = {"at most": "≤", "at least": "≥"}[row["sense"]]
        ax.annotate(f"{ratio['median']:.3g}  ({sign} {bound:.3g})", (1.01, i), xycoords=("axes fraction", "data"),
                    fontsize=7, va="center")  # fmt: skip
    ax.axvline(1, color="0.2", linewidth=1)
    ax.set_xscale("log")
    ax.set_yticks(range(len(rows)), [_short(row) for row in rows], fontsize=7)
    ax.invert_yaxis()
    ax.set_xlabel("ratio / bound, or bound / ratio if higher is better: met left of 1", fontsize=8)
    ax.tick_params(axis="x", labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)


def _short(row: RowRecord) -> str:
    text = f"{row['line']}: {row['case']}"
    return text if len(text) < 96 else text[:93] + "…"


def _over_parameters(ax: Axes, rows: list[RowRecord]) -> None:
    for ranks, colour in (("1 rank", "#0072B2"), ("2 ranks", "#D55E00")):
        of_ranks = [row for row in rows if f" on {ranks}," in row["case"]]
        if of_ranks:
            names = [row["case"].split(" on ")[0] for row in of_ranks]
            ax.plot(names, [row["ratio"]["median"] for row in of_ranks], "o-", color=colour, label=ranks)
    ax.set_ylim(bottom=0)
    ax.set_title("a merge, ns per parameter of a rank: flat is linear", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)


def _over_stream(ax: Axes, rows: list[RowRecord]) -> None:
    for what, colour in (("seconds", "#0072B2"), ("memory", "#D55E00")):
        selected = [row for row in rows if row["case"].endswith(what)]
        lengths = [row["case"].split("a stream of ")[1].split(":")[0] for row in selected]
        ax.plot(lengths, [statistics.median(row["ratios"]) for row in selected], "o-", color=colour, label=what)
    ax.axhline(1, color="0.6", linewidth=0.8)
    ax.set_ylim(0, 1.5)
    ax.set_xlabel("tasks in the stream", fontsize=8)
    ax.set_title("stages at the end of the stream relative to those at its start", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
