"""The report of a study: the table, the remarks and the plot of its finished runs."""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from scipy.stats import t as student

from cmaclip_jax.landmarks.config import REMEDIES
from cmaclip_jax.landmarks.detector_scores import DetectorScores
from cmaclip_jax.landmarks.study import CLEAN, PLAIN, Arm
from cmaclip_jax.studies import framework
from cmaclip_jax.studies.framework import StudyRun, deviation, markdown_table, with_deviation

# The scores in the table, and their names there.
MEASURES = {
    "nme": "error",
    "motion_error": "wrong motion",
    "midpoint_jitter": "jitter in video",
    "still_jitter": "jitter of stills",
}
MARKS = {"better": "+", "worse": "-", "": " "}
STABILITY = ("motion_error", "midpoint_jitter")  # the two metrics of video
ABOUT = """\
Percent of the outer eye distance: mean ± sample standard deviation over seeds; less is better.
error: of the points of stills (NME). wrong motion: of a video's points from frame to frame, against
the truth. jitter in video: deviation from the midpoint of the neighbours in time, needs no truth.
jitter of stills: of the same still, shifted by up to 2 pixels. Both jitters are divided by the
detected eye distance, which a bias of the annotations makes larger or smaller.
+, -: better or worse than plain training under the same noise: the mean difference over seeds is
larger than its standard deviation. A plain line is compared with plain training without noise on
the same number of faces."""


@dataclasses.dataclass(frozen=True)
class TableRow:
    """An arm, the arm it is compared with (or None), and the scores of both by seed."""

    arm: Arm
    against: Arm | None
    scores: dict[int, DetectorScores]
    other: dict[int, DetectorScores]

    def values(self, measure: str) -> list[float]:
        return [getattr(scores, measure) for scores in self.scores.values()]

    def mean(self, measure: str) -> float:
        return statistics.fmean(self.values(measure))

    def spread(self, measure: str) -> float | None:
        """The sample standard deviation; None for one seed."""
        return deviation(self.values(measure))

    def gains(self, measure: str) -> list[float]:
        """For every seed of both arms, the other arm's value minus this arm's value."""
        both = [seed for seed in self.scores if seed in self.other]
        return [getattr(self.other[x], measure) - getattr(self.scores[x], measure) for x in both]

    def verdict(self, measure: str) -> str:
        """'better', 'worse', or '' if the difference is not clear or there is one seed."""
        gains = self.gains(measure)
        if self.against is None or len(gains) < 2:
            return ""
        mean = statistics.fmean(gains)
        return "" if abs(mean) <= statistics.stdev(gains) else "better" if mean > 0 else "worse"


def table_rows(runs: Sequence[StudyRun], results: dict[StudyRun, DetectorScores]) -> list[TableRow]:
    """A row for every arm that has results, in the order of the arms."""
    scores: dict[Arm, dict[int, DetectorScores]] = {}
    for run in runs:
        if run in results:
            scores.setdefault(run.arm, {})[run.seed] = results[run]
    rows = []
    for arm in scores:
        against = None
        if arm.remedy != PLAIN:
            against = dataclasses.replace(arm, remedy=PLAIN)
        elif arm.noise != CLEAN:
            against = Arm(CLEAN, 0.0, PLAIN, arm.faces)
        rows.append(TableRow(arm, against, scores[arm], scores.get(against, {})))
    return rows


def table_cells(rows: list[TableRow]) -> Iterator[list[str]]:
    """The cells of the table: the head, and a line per row."""
    yield ["noise", "faces", "remedy", *MEASURES.values()]
    for row in rows:
        own = [_cell(row, measure) for measure in MEASURES]
        yield [row.arm.noise_named(), f"{row.arm.faces:,}", row.arm.remedy, *own]


def _cell(row: TableRow, measure: str) -> str:
    spread = row.spread(measure)
    percent = with_deviation(100 * row.mean(measure), spread and 100 * spread, 2)
    return f"{percent} {MARKS[row.verdict(measure)]}"


def remarks(rows: list[TableRow]) -> list[str]:
    """Sentences on which remedies help, what noise costs, and how many marks are due to chance."""
    better = [row for row in rows if row.arm.remedy != PLAIN and row.verdict("nme") == "better"]
    both = [row for row in better if all(row.verdict(x) == "better" for x in STABILITY)]
    lines = [
        f"better than plain training in accuracy and in both metrics of video: {_named(both)}",
        "better than plain training in accuracy alone: "
        + _named([row for row in better if row not in both]),
    ]
    lines += costs(rows)
    seeds = max((len(row.gains("nme")) for row in rows), default=0)
    if seeds > 1:
        chance = student.sf(seeds**0.5, seeds - 1)
        lines.append(
            f"with {seeds} seeds and no difference at all, {chance:.0%} of the cells would be "
            "marked better, and as many worse"
        )
    return lines


def _named(rows: list[TableRow]) -> str:
    return ", ".join(f"{row.arm.remedy} under {row.arm.noise_named()}" for row in rows) or "none"


def costs(rows: list[TableRow]) -> Iterator[str]:
    """A line per noise: the increase of the error over the same training without noise.

    Averaging is compared with plain training, which equals averaging without noise.
    """
    clean = {(row.arm.remedy, row.arm.faces): row for row in rows if row.arm.noise == CLEAN}
    noises = dict.fromkeys(row.arm.noise_named() for row in rows if row.arm.noise != CLEAN)
    for noise in noises:
        parts = []
        for row in rows:
            remedy = PLAIN if row.arm.remedy == "averaged" else row.arm.remedy
            other = clean.get((remedy, row.arm.faces))
            if row.arm.noise_named() != noise or other is None:
                continue
            gains = dataclasses.replace(row, other=other.scores).gains("nme")
            if gains:
                spread = f" ±{100 * statistics.stdev(gains):.2f}" if len(gains) > 1 else ""
                cost = f"{-100 * statistics.fmean(gains):+.2f}{spread}"
                parts.append(f"{row.arm.remedy} ({row.arm.faces:,} faces) {cost}")
        yield f"what {noise} adds to the error of the same training without it: {', '.join(parts)}"


def write_report(folder: Path, rows: list[TableRow]) -> list[Path]:
    """Writes study.md, study.json and study.png into the study's folder."""
    numbers = json.dumps([_plain(row) for row in rows], indent=1) + "\n"
    texts = {".md": markdown(rows), ".json": numbers}
    return framework.write_files(folder / "study", texts, draw(rows))


def markdown(rows: list[TableRow]) -> str:
    """The table, its explanation, the remarks and the remedies."""
    table = markdown_table(table_cells(rows), words=(0, 2))
    used = dict.fromkeys(row.arm.remedy for row in rows)
    legend = [f"- {name}: {REMEDIES[name][1]}" for name in used]
    notes = [f"- {remark}" for remark in remarks(rows)]
    return "\n".join([ABOUT, "", *table, "", *notes, "", *legend]) + "\n"


def _plain(row: TableRow) -> dict:
    """A row as an object for JSON."""
    return dataclasses.asdict(row.arm) | {
        measure: {
            "mean": row.mean(measure),
            "sd": row.spread(measure),
            "seeds": {str(seed): getattr(scores, measure) for seed, scores in row.scores.items()},
            "verdict": row.verdict(measure),
        }
        for measure in (*MEASURES, "failures")
    }


def draw(rows: list[TableRow]):
    """A panel per measure and a line per arm: a dot per seed, a bar for mean and deviation."""
    from matplotlib.figure import Figure  # takes seconds to import

    figure = Figure((13, 1.3 + 0.21 * len(rows)), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    noises = list(dict.fromkeys(row.arm.noise for row in rows))
    for axes, (measure, name) in zip(panels, MEASURES.items(), strict=True):
        for height, row in enumerate(rows):
            colour = f"C{noises.index(row.arm.noise)}"
            values = [100 * value for value in row.values(measure)]
            axes.plot(values, [height] * len(values), "o", color=colour, alpha=0.35, ms=4, mew=0)
            axes.errorbar(
                100 * row.mean(measure),
                height,
                xerr=100 * (row.spread(measure) or 0),
                fmt="s" if row.arm.remedy == PLAIN else "|",
                **{"color": colour, "ms": 5 if row.arm.remedy == PLAIN else 9, "capsize": 2},
            )
        for height, (row, before) in enumerate(zip(rows[1:], rows, strict=False)):
            if row.arm.noise != before.arm.noise:
                axes.axhline(height + 0.5, color="lightgrey", lw=0.8, zorder=0)
        clean = next((row for row in rows if row.arm.noise == CLEAN), None)
        if clean:
            axes.axvline(100 * clean.mean(measure), color="grey", ls=":", lw=1, zorder=0)
        axes.set_title(f"{name} ({measure})", fontsize=9, loc="left")
        axes.set_xlabel("% of the outer eye distance", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(rows)), [_label(row.arm) for row in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle(
        "Landmarks from noisy annotations: mean ± sample standard deviation over seeds (dots); "
        "squares: plain training; dotted: plain training without noise",
        fontsize=9,
    )
    return figure


def _label(arm: Arm) -> str:
    return f"{arm.noise_named()}, {arm.faces:,} faces: {arm.remedy}"
