"""The section of one task: its curves, calibration, confusion matrix, classes and mistakes."""

from collections.abc import Mapping, Sequence

from cmaclip_jax.evaluation.curves import (
    calibration,
    precision_recall,
    weights_by_class,
)
from cmaclip_jax.evaluation.decisions import decisions
from cmaclip_jax.evaluation.threshold_choice import reached
from cmaclip_jax.evaluation.thresholds import TaskThresholds
from cmaclip_jax.report.charts import Plot, chart, share_axis
from cmaclip_jax.report.confusion_matrix import confusion_matrix
from cmaclip_jax.report.markup import (
    Html,
    element,
    figure,
    folded,
    join,
    paragraph,
    share,
    table,
)
from cmaclip_jax.report.mistakes import Case, Cases
from cmaclip_jax.report.pair_section import card, judged
from cmaclip_jax.report.results import RunResults
from cmaclip_jax.report.word_heat import PairView
from cmaclip_jax.tasks import Task

Pairs = Mapping[int, PairView]  # by their row in the split


def task_section(
    results: RunResults, task: Task, scored: dict, found: Cases | None, shown: Pairs, first: bool
) -> Html:
    """A task, folded; found: its single cases, shown: their pairs as far as they are at hand.

    first: whether it is unfolded, as an example of what the others hold.
    """
    parts = [] if results.outcome is None else _curves(results, task, scored)
    if scored["examples"]:
        parts += [*confusion_matrix(task, scored), _classes(results, task, scored)]
    if found is not None:
        parts += _cases(found, shown)
    about = [f"accuracy {figure(scored['accuracy'])}"]
    if found is not None and results.thresholds:
        about.append(f"{found.held_back:,} held back")
    if found is not None:
        about.append(f"{found.wrong:,} mistakes")
    return element(
        "details",
        element(
            "summary",
            element("h3", task.name),
            *[y for x in about for y in (" ", element("span", x))],
        ),
        *parts,
        open="" if first else None,
        id=f"task-{results.tasks.index(task)}",
    )


def _curves(results: RunResults, task: Task, scored: dict) -> list[Html]:
    """Precision over recall, and calibration."""
    probabilities, labels = results.judged(task)
    if not scored["examples"]:
        return [paragraph("No label of this task is known in this split.")]
    thresholds = results.thresholds.get(task.name)
    found = decisions(task, probabilities, labels)
    temperature = thresholds.temperature if thresholds else None
    ranked = decisions(task, probabilities, labels, temperature)
    curve = precision_recall(ranked.confidence, ranked.correct, ranked.positives)
    stands = reached(thresholds, probabilities, labels) if thresholds else None
    return [
        element(
            "div",
            _precision_chart(curve, thresholds, stands),
            _calibration_chart(found, scored["expected_calibration_error"], thresholds),
            class_="plots",
        )
    ]


def _precision_chart(curve, thresholds: TaskThresholds | None, stands: dict | None) -> Html:
    recall, precision, _ = curve
    target = thresholds.target if thresholds else 1.0
    plot = Plot(
        share_axis("recall: accepted and right"),
        share_axis("precision", min(float(precision.min()), target)),
    )
    parts = [plot.line(recall, precision, name="precision over recall")]
    said = "Precision over recall, accepting answers from the most confident down."
    if thresholds is None:
        said += " No threshold has been chosen."
        return chart(plot.svg(said, *parts), said)
    parts.insert(0, plot.line([0, 1], [target] * 2, name="target", class_="ideal"))
    if stands["precision"] is None:
        why = "reaches" if thresholds.level is None else "can promise"
        told = f"Nothing is accepted: no threshold {why} a precision of {target:g}."
    else:
        value = thresholds.overall.value
        start = "thresholds by class" if thresholds.classes or value is None else f"{value:.3f} on"
        told = (
            f"Accepted from {start}: {stands['accepted_share']:.1%} of the answers, "
            f"{stands['precision']:.1%} of them right (dot; dashed, the target {target:g})."
        )
        parts.append(plot.dot(stands["recall"] or 0.0, stands["precision"], 5, told))
    return chart(plot.svg(f"{said} {told}", *parts), f"{said} ", element("b", told))


def _calibration_chart(found, error: float, thresholds: TaskThresholds | None) -> Html:
    bins = calibration(found.confidence, found.correct)
    total = max(sum(part.count for part in bins), 1)
    plot = Plot(share_axis("confidence"), share_axis("right"))
    filled = [part for part in bins if part.count]
    told = [
        f"{part.low:.2f} to {part.high:.2f}: {part.count:,} answers, {part.confidence:.3f} sure, "
        f"{part.right:.3f} right"
        for part in filled
    ]
    named = list(zip(filled, told, strict=True))
    bars = [plot.bar(part.low, part.high, part.count / total, line) for part, line in named]
    dots = [
        plot.dot(
            part.confidence, part.right, 2 + 5 * (part.count / total) ** 0.5, line, class_="bin"
        )
        for part, line in named
    ]
    ideal = plot.line([0, 1], [0, 1], name="as sure as right", class_="ideal")
    said = (
        "Calibration in 15 bins. A dot on the dashed line: confidence equals the share that is "
        "right; below it, confidence is too high. Grey: the share of answers. "
        f"Calibration error {figure(error)}."
    )
    if thresholds:
        said += (
            " These are the model's own confidences; its thresholds, and the probabilities of "
            f"single answers, go by confidences at temperature {thresholds.temperature:.2f}."
        )
    return chart(
        plot.svg(said, ideal, *bars, *dots), said, folded("The bins as a table", _bin_table(bins))
    )


def _bin_table(bins) -> Html:
    """The bins of the calibration as a table."""
    return table(
        "Calibration bins",
        ["confidence", "answers", "mean confidence", "right"],
        [
            [
                f"{p.low:.2f}\N{EN DASH}{p.high:.2f}",
                f"{p.count:,}",
                figure(p.confidence),
                figure(p.right),
            ]
            for p in bins
        ],
    )


def _classes(results: RunResults, task: Task, scored: dict) -> Html:
    """A line for every class: how often, how well, and by which modality."""
    weights = {}
    if results.outcome is not None:
        labels = results.judged(task)[1]
        weights = weights_by_class(task, results.outcome["modality_weights"][task.name], labels)
    counts = dict(zip(task.classes, scored["confusion"], strict=True)) if task.many else {}
    first = next(iter(scored["classes"].values()))
    precisions = list(first.get("recall_at_precision", ()))
    rows = [
        [
            name,
            f"{row['support']:,}",
            *[figure(row[column]) for column in ("precision", "recall", "f1")],
            *[figure(row["recall_at_precision"][precision]) for precision in precisions],
            *[f"{counts[name][column]:,}" for column in (1, 2) if task.many],
            *([share(*weights[name]) if name in weights else "-"] if weights else []),
        ]
        for name, row in scored["classes"].items()
    ]
    wrongs = ["wrongly said", "missed"] if task.many else []
    head = [
        "class",
        "pairs",
        "precision",
        "recall",
        "F1",
        *[f"recall at {precision}" for precision in precisions],
        *wrongs,
        *(["weights"] if weights else []),
    ]
    shown = table(f"Classes of {task.name}", head, rows)
    return folded(f"All {len(rows)} classes one by one", shown)


def _cases(found: Cases, shown: Pairs) -> list[Html]:
    """The surest mistakes and the surest of what was held back."""
    groups = (
        ("mistakes", found.wrong, found.mistakes, "No mistakes."),
        ("answers held back", found.held_back, found.abstentions, ""),
    )
    parts = []
    for what, count, listed, none in groups:
        if not listed:
            parts += [paragraph(none)] if none else []
            continue
        title = f"The surest of {count:,} {what}" if count > len(listed) else f"{count} {what}"
        parts.append(element("h4", title))
        cards = [card(shown.get(case.row) or _unseen(case.row), *_lines(case)) for case in listed]
        parts.append(element("div", *cards, class_="pairs"))
    return parts


def _unseen(row: int) -> PairView:
    return PairView(f"number {row + 1} of its split", None, None, "not at hand")


def _lines(case: Case) -> Sequence[Html]:
    accepted = "" if case.accepted is None else ", accepted" if case.accepted else ", held back"
    said = element("b", case.answer), f" {case.probability:.3f}{accepted}"
    truth = judged(case.truth, case.right)
    return paragraph("answer ", *said), paragraph("truth ", truth)


def task_sections(
    results: RunResults, scored: Sequence[tuple[Task, dict]], found: Mapping, shown: Pairs
) -> Html:
    """Every task, the first one unfolded."""
    return join(
        task_section(results, task, figures, found.get(task.name), shown, number == 0)
        for number, (task, figures) in enumerate(scored)
    )
