"""A report is one honest file: what it says is what was measured, and it fetches nothing."""

import dataclasses
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve
from support.commands import mistake
from support.pages import check_page
from support.small import TASKS

from cmaclip_jax.evaluation.curves import (
    OTHERS,
    calibration,
    collapsed,
    confusions_of,
    precision_recall,
    weights_by_class,
)
from cmaclip_jax.evaluation.decisions import decisions
from cmaclip_jax.evaluation.metrics import expected_calibration_error, recall_at_precision
from cmaclip_jax.evaluation.result_files import write_outcome, write_score
from cmaclip_jax.evaluation.scores import score
from cmaclip_jax.evaluation.threshold_choice import calibrate, reached
from cmaclip_jax.evaluation.thresholds import read_thresholds, write_thresholds
from cmaclip_jax.main import main
from cmaclip_jax.report.charts import Plot, axis, share_axis
from cmaclip_jax.report.explanation import PairView
from cmaclip_jax.report.markup import element
from cmaclip_jax.report.mistakes import cases
from cmaclip_jax.report.pages import report_page
from cmaclip_jax.report.results import read_history, read_results
from cmaclip_jax.report.style import STYLE
from cmaclip_jax.tasks import Task, write_tasks

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
EVIL = "<script>alert('x')</script>&\"quoted\""


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    """A copy of the finished run with thresholds."""
    run = shutil.copytree(finished_run, tmp_path_factory.mktemp("reported") / "run")
    assert main(["evaluate", f"--workdir={run}", "--precision=0.3"]) == 0
    return run


@pytest.fixture(scope="module")
def text(run):
    assert main(["report", f"--workdir={run}"]) == 0
    return (run / "report.html").read_text()


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def report(run, *more):
    assert main(["report", f"--workdir={run}", *more]) == 0
    return check_page((run / "report.html").read_text())


def test_a_report_says_what_was_measured(run, text):
    page = check_page(text)
    figures = json.loads((run / "evaluation/test.json").read_text())
    rows: dict = {}
    for name in ("Tasks", "What can be accepted"):
        head, *lines = page.tables[name]
        for line in lines:
            rows.setdefault(line[0], {}).update(zip(head, line, strict=True))
    assert "The micro figure pools all classes under one threshold" in page.text
    assert "thresholds are chosen on these very pairs" in page.text
    thresholds, outcome = read_thresholds(run / "thresholds.json"), read_results(run).outcome
    for name, task in figures["tasks"].items():
        row = rows[name]
        assert row["accuracy"] == f"{task['accuracy']:.3f}"
        assert row["macro F1"] == f"{task['macro_f1']:.3f}"
        assert row["calibration error"] == f"{task['expected_calibration_error']:.3f}"
        for word in ("micro", "macro"):
            kind = "recall_at_precision" if word == "micro" else "macro_recall_at_precision"
            for precision, recall in task[kind].items():
                assert row[f"recall, {word}, at {precision}"] == f"{recall:.3f}"
        part = figures["slices"]["without_image"]["tasks"][name]
        assert row["no picture"] == f"{part['accuracy']:.3f} ({part['examples']})"
        assert thresholds[name].split == "val"
        fair = reached(thresholds[name], outcome["probabilities"][name], outcome["labels"][name])
        assert row["accepted"] == f"{fair['accepted_share']:.3f}"
        precision = fair["precision"]
        assert row["right of these"] == ("-" if precision is None else f"{precision:.3f}")
        head, *lines = page.tables[f"Classes of {name}"]
        for (label, scored), line in zip(task["classes"].items(), lines, strict=True):
            assert line[:2] == [label, str(scored["support"])]
            assert line[4] == ("-" if scored["f1"] is None else f"{scored['f1']:.3f}")
            own = scored["recall_at_precision"]["0.90"]
            assert line[head.index("recall at 0.90")] == ("-" if own is None else f"{own:.3f}")
    assert rows["mean"]["accuracy"] == f"{figures['mean']['accuracy']:.3f}"
    mean = figures["mean"]["macro_recall_at_precision"]["0.95"]
    assert rows["mean"]["recall, macro, at 0.95"] == f"{mean:.3f}"
    caption = next(name for name in page.tables if name.startswith("Confusions"))
    counts = [[int(cell or 0) for cell in row[1:]] for row in page.tables[caption][1:]]
    assert counts == figures["tasks"]["colour"]["confusion"]
    assert f"{figures['examples']:,}" in page.texts
    assert "Missing: " not in page.texts
    assert "Thresholds were chosen on val." in page.text
    assert "look better" not in page.text
    pictures = [source for source in page.values("src") if "jpeg" in source]
    assert len(pictures) > 8
    assert len(page.all("img")) > len(pictures)  # the heat


def test_the_surest_mistakes_and_what_was_held_back_are_found(run, catalogue, text):
    results, head = read_results(run), []
    task = next(task for task in results.tasks if task.name == "colour")
    found = cases(results, task, 6)
    probabilities, labels = results.judged(task)
    shown = results.thresholds["colour"].scaled(probabilities)
    wrong = [
        (-row.max(), place)
        for place, (row, label) in enumerate(zip(shown, labels, strict=True))
        if label >= 0 and row.argmax() != label
    ]
    expected = [int(results.outcome["row"][place]) for _, place in sorted(wrong)]
    assert [case.row for case in found.mistakes] == expected[:6]
    assert found.wrong == len(expected)
    assert not any(case.right for case in found.mistakes)
    least = results.thresholds["colour"].overall.value
    for case, (confidence, _) in zip(found.mistakes, sorted(wrong), strict=False):
        assert case.probability == -confidence
        assert case.accepted == (least is not None and case.probability >= least)
        assert f"<b>{case.answer}</b> {case.probability:.3f}" in text
    stands = results.thresholds["colour"].accepts(probabilities)
    assert found.held_back == int(np.sum(~stands & (labels >= 0)))
    assert all(case.accepted is False for case in found.abstentions)
    rows = [row.split(",") for row in catalogue.read_text().splitlines()]
    head, rows = rows[0], [row for row in rows if "test" in row]
    for case in found.mistakes:
        row = dict(zip(head, rows[case.row], strict=True))
        assert row["colour"] == case.truth
        assert f'{row["title"]}<span class="quiet"> ({row["id"]})' in text
    many = next(task for task in results.tasks if task.many)
    for case in cases(results, many, 50).mistakes:
        assert case.truth != case.answer
        assert {case.truth, case.answer} == {case.answer, f"not {case.answer}"} or case.answer == (
            f"not {case.truth}"
        )
        assert case.probability >= 0.5


def random_task(many: bool, rows: int = 300):
    random = np.random.default_rng(many)
    scores = random.random((rows, 4)).astype(np.float32).round(2)  # with ties
    task = Task("some", ("a", "b", "c", "d"), many)
    if many:
        labels = (random.random((rows, 4)) < scores).astype(np.float32)
        labels[:20] = -1
        return task, scores, labels
    probabilities = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    labels = np.array([random.choice(4, p=p / p.sum()) for p in probabilities.astype(float)])
    labels[:20] = -1
    return task, probabilities, labels


@pytest.mark.parametrize("many", [False, True])
def test_curves_are_those_of_scikit_learn(many):
    task, probabilities, labels = random_task(many)
    found = decisions(task, probabilities, labels)
    recall, precision, thresholds = precision_recall(
        found.confidence, found.correct, found.positives
    )
    theirs = precision_recall_curve(found.correct, found.confidence)
    np.testing.assert_allclose(precision[::-1], theirs[0][:-1])
    share = found.positives / found.correct.sum()  # of one label, wrong answers are to be found too
    np.testing.assert_allclose(recall[::-1] * share, theirs[1][:-1])
    np.testing.assert_allclose(thresholds[::-1], theirs[2])
    for target in (0.3, 0.5, 0.9):
        best = max(recall[precision >= target], default=0.0)
        assert best == recall_at_precision(found.confidence, found.correct, found.positives, target)


@pytest.mark.parametrize("many", [False, True])
def test_a_threshold_lies_on_its_curve(many):
    task, probabilities, labels = random_task(many)
    chosen = calibrate(task, probabilities, labels, 0.6)
    fair = reached(chosen, probabilities, labels)
    found = decisions(task, probabilities, labels, chosen.temperature)
    recall, precision, thresholds = precision_recall(
        found.confidence, found.correct, found.positives
    )
    place = np.flatnonzero(thresholds == chosen.overall.value)
    assert fair["precision"] == pytest.approx(float(precision[place][0]))
    assert fair["recall"] == pytest.approx(float(recall[place][0]))


@pytest.mark.parametrize("many", [False, True])
def test_calibration_bins_add_up(many):
    task, probabilities, labels = random_task(many)
    found = decisions(task, probabilities, labels)
    bins = calibration(found.confidence, found.correct)
    assert len(bins) == 15
    assert sum(part.count for part in bins) == len(found.confidence) == (280 * (4 if many else 1))
    filled = [part for part in bins if part.count]
    assert sum(part.right * part.count for part in filled) == pytest.approx(found.correct.sum())
    for part in filled:
        assert part.low <= part.confidence <= part.high
    error = sum(part.count * abs(part.right - part.confidence) for part in filled)
    assert error / len(found.confidence) == pytest.approx(
        expected_calibration_error(found.confidence, found.correct)
    )


def test_many_classes_collapse_to_those_with_mistakes():
    counts = np.diag(np.arange(40))
    counts[3, 7], counts[9, 3], counts[30, 31] = 5, 4, 1
    names = [f"c{i}" for i in range(40)]
    shown, small = collapsed(counts, names, 4)
    assert shown == ["c3", "c7", "c9", OTHERS]
    assert small.sum() == counts.sum()
    assert small[0, 1] == 5
    assert small[2, 0] == 4
    assert small[3, 3] == np.arange(40).sum() - 3 - 7 - 9 + 1
    assert confusions_of(counts, names, 2) == [
        {"truth": "c3", "decision": "c7", "count": 5},
        {"truth": "c9", "decision": "c3", "count": 4},
    ]
    assert len(confusions_of(counts, names, 10)) == 3


def test_modality_weights_are_those_of_a_class():
    weights = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    one = weights_by_class(TASKS[0], weights, np.array([0, 0, -1]))
    assert list(one) == ["red"]
    np.testing.assert_allclose(one["red"], [0.75, 0.25])
    labels = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [-1, -1, -1, -1]])
    np.testing.assert_allclose(weights_by_class(TASKS[1], weights, labels)["hat"], [0.5, 0.5])


@pytest.fixture
def evil(tmp_path):
    """A run's folder in which everything that somebody could have named tries to be markup."""
    tasks = (Task("colour", (EVIL, "green")), Task("contents", (EVIL, "hat"), many=True))
    random = np.random.default_rng(0)
    outcome = {
        "row": np.arange(40),
        "probabilities": {t.name: random.dirichlet((1, 1), 40).astype(np.float32) for t in tasks},
        "labels": {
            "colour": random.integers(0, 2, 40).astype(np.float32),
            "contents": random.integers(0, 2, (40, 2)).astype(np.float32),
        },
        "modality_weights": {t.name: np.full((40, 2), 0.5, np.float32) for t in tasks},
        "has_image": np.ones(40),
        "has_text": np.ones(40),
    }
    write_tasks(tmp_path / "tasks.json", tasks)
    write_score(tmp_path, score(outcome, tasks, "val", 3))
    write_outcome(tmp_path, "val", outcome)
    write_thresholds(
        tmp_path / "thresholds.json",
        [
            dataclasses.replace(
                calibrate(t, outcome["probabilities"][t.name], outcome["labels"][t.name], 0.6),
                split="val",
            )
            for t in tasks
        ],
    )
    return tmp_path


def test_what_somebody_named_is_never_markup(evil):
    results = read_results(evil)
    found = {task.name: cases(results, task, 4) for task in results.tasks}
    shown = {row: PairView(EVIL, None, EVIL, EVIL) for row in range(40)}
    page = check_page(report_page(results, {"data": EVIL}, found, shown, [], [EVIL], EVIL))
    assert page.text.count(EVIL) > 20
    assert "here they look better than they are" in page.text
    assert element("p", EVIL, title=EVIL).count("<") == 2


def test_what_is_missing_is_said_with_the_command_that_makes_it(copy, tmp_path):
    (copy / "thresholds.json").unlink()
    page = report(copy)
    assert f"choose them with cmaclip evaluate --workdir={copy} --precision=0.95" in page.text
    assert "No threshold has been chosen." in page.text
    assert "held back" not in page.text.replace("accepted or held back", "")
    (copy / "evaluation/test.npz").unlink()
    page = report(copy)
    assert f"make it with cmaclip evaluate --workdir={copy} --split=test" in page.text
    assert "None can be shown: the answers to test are not kept." in page.text
    assert "Confusions: a row per true class, a column per answer" in page.tables
    (copy / "metrics.jsonl").unlink()
    assert "there are no learning curves" in report(copy).text
    shutil.rmtree(copy / "evaluation")
    page = report(copy)
    assert f"make them with cmaclip evaluate --workdir={copy} --split=test" in page.text
    assert "Tasks" not in page.tables


def test_a_run_whose_data_is_gone_is_reported_without_pictures(copy, tmp_path, capsys):
    page = report(copy, f"--config.data.path={tmp_path}/gone.csv")
    assert not page.all("img")
    assert "not at hand" in page.texts
    assert "data or model cannot be opened" in page.text
    assert "there is no data.path=" in capsys.readouterr().err
    assert page.tables["Tasks"]


def test_a_run_without_words_shows_its_pairs_as_well(copy):
    wordless = "--config.data.text=none"
    assert main(["evaluate", f"--workdir={copy}", wordless]) == 0
    page = report(copy, wordless)
    assert "None can be shown" not in page.text
    assert "Where the model looks for each answer" in page.texts
    answers = [name for name in page.tables if name.startswith("Answers on ")]
    assert len(answers) == 4
    assert len(page.tables[answers[0]]) == 1 + len(TASKS)


def test_another_split_another_file_and_mistakes(copy, tmp_path, capsys):
    command = ["report", f"--workdir={copy}"]
    assert main([*command, "--split=val", f"--output={tmp_path}/val.html"]) == 0
    said = f"make them with cmaclip evaluate --workdir={copy} --split=val"
    assert said in check_page((tmp_path / "val.html").read_text()).text
    assert "name another file with --output" in mistake(
        capsys, *command, f"--output={tmp_path}/nowhere/page.html"
    )
    assert "is no run" in mistake(capsys, "report", f"--workdir={tmp_path}")
    assert "did you mean --config.data.path?" in mistake(capsys, *command, "--config.data.pth=x")
    (copy / "evaluation/test.npz").write_bytes(b"PK nothing")
    assert "test.npz cannot be read; make it with" in mistake(capsys, *command)
    (copy / "evaluation/test.json").write_text("{")
    assert "test.json cannot be read; make it with" in mistake(capsys, *command)
    shutil.rmtree(copy / "evaluation")
    (copy / "tasks.json").write_text("{}")
    assert "tasks.json cannot be read" in mistake(capsys, *command)


def test_history_takes_the_later_of_two_and_survives_a_killed_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = ['{"step": 2, "a": 1.0}', '{"step": 4, "a": 3.0}', '{"step": 4, "a": 2.0}']
    path.write_text("\n".join([*lines, '{"step": 6, "a": NaN}', '{"step": 8, "a"']))
    assert read_history(path) == {"a": ([2, 4], [1.0, 2.0])}
    assert read_history(tmp_path / "nothing") == {}


@pytest.mark.parametrize("values", [[0, 0], [0.97, 1.0], [0, 4000], [3, 1234567], [1e-5, 2e-5]])
def test_axes_are_round_and_hold_everything(values):
    ticks = axis("", values).ticks
    assert ticks[0] <= values[0]
    assert ticks[-1] >= values[-1] * (1 - 1e-9)
    assert 2 <= len(ticks) <= 8
    np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0], rtol=1e-3)


def test_a_long_line_stays_small_and_keeps_its_ends():
    xs = np.linspace(0, 1, 100_000)
    path = Plot(share_axis("x"), share_axis("y")).line(xs, xs)
    points = re.search(r'd="M([^"]+)"', path)[1].split("L")
    assert len(points) == 400
    assert points[0] == "50.0 208.0"
    assert points[-1] == "368.0 10.0"


def luminance(colour: str) -> float:
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("dark", [False, True])
def test_everything_stands_out_from_its_ground(dark):
    """WCAG's contrast: 4.5 for words, 3 for lines."""
    colours = dict(re.findall(r"--(\w+): (#\w{6})", STYLE.split("@media (prefers")[dark][:1200]))
    for name, colour in colours.items():
        least = 4.5 if name in ("text", "quiet", "link", "good", "bad") else 3
        if name in ("page", "card", "line", "words"):  # words: a bar, and its share is said as well
            continue
        for ground in ("page", "card"):
            low, high = sorted((luminance(colour), luminance(colours[ground])))
            assert (high + 0.05) / (low + 0.05) >= least, (name, ground)
    assert len(colours) == 19


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_all_of_it(text, tmp_path, width):
    # In a frame, since a window cannot be as narrow as a phone.
    probe = (
        "<script>onload = () => {"
        "for (const x of document.querySelectorAll('details')) x.open = true;"
        "const broken = [...document.images].filter(x => !x.naturalWidth).length;"
        "const wide = document.documentElement.scrollWidth;"
        "const right = x => {const range = document.createRange(); range.selectNodeContents(x);"
        " return range.getBoundingClientRect().right};"
        "const regions = [...document.querySelectorAll('.wide')];"
        "const cut = regions.filter(x => right(x.querySelector('caption')) > "
        " x.getBoundingClientRect().right + 1).length;"
        "const scrolled = regions.filter(x => x.scrollWidth > x.clientWidth + 1).length;"
        "parent.postMessage([wide, innerWidth, broken, cut, scrolled].join(' '), '*')}"
        "</script></body>"
    )
    policy = re.search(r"<meta http-equiv=[^>]+>", text)[0]
    (tmp_path / "page.html").write_text(text.replace(policy, "").replace("</body>", probe))
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<script>onmessage = message => document.title = message.data</script>"
        f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>'
    )
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=10000"]
    command += ["--window-size=1400,1000", frame.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = map(int, re.search(r"<title>([\d ]+)</title>", shown)[1].split())
    needed, there, broken, cut, scrolled = found
    assert there == width
    assert needed <= there  # nothing sticks out of the page
    assert broken == 0  # every picture is one
    assert cut == 0  # every caption is seen whole
    assert width < 1280 or scrolled == 0  # so is every table, where there is room
