"""The section of one task: its curves, calibration, confusion matrix, classes and mistakes."""

from collections.abc import Mapping, Sequence

from cmaclip_jax.evaluation.curves import calibration, precision_recall, weights_by_class
from cmaclip_jax.evaluation.decisions import Decisions, decisions
from cmaclip_jax.evaluation.threshold_choice import reached
from cmaclip_jax.evaluation.thresholds import TaskThresholds
from cmaclip_jax.report.charts import Plot, chart, share_axis
from cmaclip_jax.report.confusion_matrix import confusion_matrix
from cmaclip_jax.report.explanation import PairView
from cmaclip_jax.report.markup import Html, element, figure, folded, join, paragraph, share, table
from cmaclip_jax.report.mistakes import Case, Cases
from cmaclip_jax.report.pair_card import card, marked_truth
from cmaclip_jax.report.results import RunResults
from cmaclip_jax.tasks import Task

Pairs = Mapping[int, PairView]  # by their row in the split


def task_section(
    results: RunResults, task: Task, scored: dict, cases: Cases | None, shown: Pairs, first: bool
) -> Html:
    """The section of a task, folded unless it is the first.

    cases: the single cases of the task. shown: the pairs of these cases that can be read.
    """
    parts = [] if results.outcome is None else _curves(results, task, scored)
    if scored["examples"]:
        parts += [*confusion_matrix(task, scored), _classes(results, task, scored)]
    if cases is not None:
        parts += _cases(cases, shown)
    about = [f"accuracy {figure(scored['accuracy'])}"]
    if cases is not None and results.thresholds:
        about.append(f"{cases.held_back:,} held back")
    if cases is not None:
        about.append(f"{cases.wrong:,} mistakes")
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
    made = decisions(task, probabilities, labels)
    temperature = thresholds.temperature if thresholds else None
    ranked = decisions(task, probabilities, labels, temperature)
    curve = precision_recall(ranked.confidence, ranked.correct, ranked.positives)
    figures = reached(thresholds, probabilities, labels) if thresholds else None
    return [
        element(
            "div",
            _precision_chart(curve, thresholds, figures),
            _calibration_chart(made, scored["expected_calibration_error"], thresholds),
            class_="plots",
        )
    ]


def _precision_chart(curve, thresholds: TaskThresholds | None, figures: dict | None) -> Html:
    recall, precision, _ = curve
    target = thresholds.target if thresholds else 1.0
    plot = Plot(
        share_axis("recall: accepted and right"),
        share_axis("precision", min(float(precision.min()), target)),
    )
    parts = [plot.line(recall, precision, name="precision over recall")]
    caption = "Precision over recall, accepting answers from the most confident down."
    if thresholds is None:
        caption += " No threshold has been chosen."
        return chart(plot.svg(caption, *parts), caption)
    parts.insert(0, plot.line([0, 1], [target] * 2, name="target", class_="ideal"))
    if figures["precision"] is None:
        why = "reaches" if thresholds.level is None else "can promise"
        accepted = f"Nothing is accepted: no threshold {why} a precision of {target:g}."
    else:
        value = thresholds.overall.value
        start = "thresholds by class" if thresholds.classes or value is None else f"{value:.3f} on"
        accepted = (
            f"Accepted from {start}: {figures['accepted_share']:.1%} of the answers, "
            f"{figures['precision']:.1%} of them right (dot; dashed, the target {target:g})."
        )
        parts.append(plot.dot(figures["recall"] or 0.0, figures["precision"], 5, accepted))
    return chart(plot.svg(f"{caption} {accepted}", *parts), f"{caption} ", element("b", accepted))


def _calibration_chart(made: Decisions, error: float, thresholds: TaskThresholds | None) -> Html:
    bins = calibration(made.confidence, made.correct)
    total = max(sum(x.count for x in bins), 1)
    plot = Plot(share_axis("confidence"), share_axis("right"))
    bars, dots = [], []
    for x in (x for x in bins if x.count):
        part = x.count / total
        name = f"{x.low:.2f} to {x.high:.2f}: {x.count:,} answers, {x.confidence:.3f} sure, "
        name += f"{x.right:.3f} right"
        bars.append(plot.bar(x.low, x.high, part, name))
        dots.append(plot.dot(x.confidence, x.right, 2 + 5 * part**0.5, name, class_="bin"))
    ideal = plot.line([0, 1], [0, 1], name="as sure as right", class_="ideal")
    caption = (
        "Calibration in 15 bins. A dot on the dashed line: confidence equals the share that is "
        "right; below it, confidence is too high. Grey: the share of answers. "
        f"Calibration error {figure(error)}."
    )
    if thresholds:
        caption += (
            " These confidences are at temperature 1; thresholds, and the probabilities of single "
            f"answers, are at temperature {thresholds.temperature:.2f}."
        )
    numbers = folded("The bins as a table", _bin_table(bins))
    return chart(plot.svg(caption, ideal, *bars, *dots), caption, numbers)


def _bin_table(bins) -> Html:
    """The bins of the calibration as a table."""
    return table(
        "Calibration bins",
        ["from", "to", "answers", "mean confidence", "right"],
        [
            [f"{x.low:.2f}", f"{x.high:.2f}", f"{x.count:,}", figure(x.confidence), figure(x.right)]
            for x in bins
        ],
    )


def _classes(results: RunResults, task: Task, scored: dict) -> Html:
    """A line for every class: its count, its figures, and its modality weights."""
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
    head = ["class", "pairs", "precision", "recall", "F1"]
    head += [f"recall at {precision}" for precision in precisions]
    head += ["wrongly said", "missed"] if task.many else []
    head += ["weights"] if weights else []
    classes = table(f"Classes of {task.name}", head, rows)
    return folded(f"All {len(rows)} classes one by one", classes)


def _cases(cases: Cases, shown: Pairs) -> list[Html]:
    """The most confident mistakes, and the most confident answers that were held back."""
    groups = (
        ("mistakes", cases.wrong, cases.mistakes, "No mistakes."),
        ("answers held back", cases.held_back, cases.abstentions, ""),
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
    answer = element("b", case.answer), f" {case.probability:.3f}{accepted}"
    truth = marked_truth(case.truth, case.right)
    return paragraph("answer ", *answer), paragraph("truth ", truth)


def task_sections(
    results: RunResults, scored: Sequence[tuple[Task, dict]], cases: Mapping, shown: Pairs
) -> Html:
    """Every task, the first one unfolded."""
    return join(
        task_section(results, task, figures, cases.get(task.name), shown, number == 0)
        for number, (task, figures) in enumerate(scored)
    )
