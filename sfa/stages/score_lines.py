"""A stage's scores as a line: with their errors, how they changed, and what is kept of the first task."""

from collections.abc import Mapping, Sequence

from rich.console import Console

from sfa.records import Score

Scores = Mapping[str, Score]  # by evaluation
DIGITS = 3


def stage_line(
    label: str,
    scores: Sequence[Score],
    before: Scores | None = None,
    gain: tuple[Scores, Scores] | None = None,
    width: int | None = None,
) -> str:
    """``after <label>:`` and every score, each on a line of its own if a single one would be wider than ``width``.

    Args:
        label: the stage's.
        scores: its scores.
        before: those of the stage before it.
        gain: scores of the first task's evaluations in the base and after its own stage: what was gained.
        width: columns of a terminal; any if ``None``.
    """
    base, own = gain or ({}, {})
    texts = [
        score_text(score, (before or {}).get(name), base.get(name), own.get(name))
        for score in scores
        for name in [score["evaluation"]]
    ]
    line = f"after {label}: " + "  ".join(texts)
    return line if width is None or len(line) <= width else "\n  ".join([f"after {label}:", *texts])


def in_lines(parts: Sequence[str], width: int | None) -> str:
    """Parts next to each other, in as many lines as ``width`` requires; all but the first are indented."""
    lines = [parts[0]]
    for part in parts[1:]:
        if width is not None and len(lines[-1]) + 2 + len(part) > width:
            lines.append(f"  {part}")
        else:
            lines[-1] += f"  {part}"
    return "\n".join(lines)


def width_of(console: Console) -> int | None:
    """The width that a line should have: that of a terminal; in a file, any."""
    return console.width if console.is_terminal else None


def score_text(score: Score, before: Score | None = None, base: Score | None = None, own: Score | None = None) -> str:
    """``name value ± standard error (n, change, kept, further metrics, rows that were too long)``."""
    error = "" if score["stderr"] is None or score["n"] < 2 else f" ± {score['stderr']:.{DIGITS}f}"
    details = [f"n={score['n']:,}"]
    if before is not None:
        details.append(_change(score, before))
    if base is not None and own is not None and (share := kept(score, base, own)) is not None:
        details.append(f"kept {f'{share:.0%}' if share > 0 else 'none'} of what was gained")
    details += [f"{metric} {value:.{DIGITS}f}" for metric, value in score.get("also", {}).items()]
    details += [f"{count:,} too long: {what}" for what in ("dropped", "cut") if (count := score.get(what, 0))]
    return f"{score['evaluation']} {score['value']:.{DIGITS}f}{error} ({', '.join(details)})"


def kept(score: Score, base: Score, own: Score) -> float | None:
    """The share of a task's gain, from the base to its own stage, that a score keeps; ``None`` if nothing was gained.
    Of losses, a gain is a decline."""
    gain = own["value"] - base["value"]
    if (gain >= 0) == bool(score.get("lower_is_better")) or not gain:
        return None
    return (score["value"] - base["value"]) / gain


def _change(score: Score, before: Score) -> str:
    change = score["value"] - before["value"]
    if round(change, DIGITS) == 0 or change != change:
        return "unchanged" if change == change else "not a number"
    word = "worse" if (change > 0) == bool(score.get("lower_is_better")) else "better"
    return f"{change:+.{DIGITS}f} {word}"
