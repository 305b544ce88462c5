"""A plan on the screen: memory, a step, the run; or a line for each of several."""

from collections.abc import Iterator

from rich.table import Table

from cmaclip_jax.planning.costs import TooLarge
from cmaclip_jax.planning.verdict import Verdict, memory_figures
from cmaclip_jax.screen import text_table

GIBIBYTE = 2**30
READING = """\
How to read this. From the TPUs' own compiler: GiB, and the number and bytes of the collectives.
Counted: operations (the model's by our formulas; XLA's for the same step with its loops unrolled).
Estimated: HBM traffic, from the compiled program's instructions, and all times, from the published
rates of the chips. No program reaches those rates, so a step may take longer; transfers between
chips are added as if they overlapped with no computation, so it may take less. Times leave out
compilation, evaluation and checkpoints."""


def whole(name: str, verdict: Verdict) -> Iterator[str | Table]:
    """One plan, part by part."""
    figures = verdict.figures()
    mesh = " x ".join(f"{axis}={size}" for axis, size in figures["mesh"].items())
    yield (
        f"{name} on {figures['topology']}: {figures['chips']} chips, {figures['hosts']} host(s), "
        f"mesh {mesh}\n{figures['parameters']:,} parameters, {figures['batch_size']:,} pairs a step"
    )
    yield memory_table(verdict)
    if not verdict.fits:
        yield "\n" + "\n".join(too_large(verdict))
    if isinstance(verdict.train, TooLarge):
        return
    yield step_table(verdict)
    yield from _run(figures)
    yield "\n" + READING


def memory_table(verdict: Verdict) -> Table:
    """GiB of a chip, by what they are for."""
    steps = {"train": verdict.train, "evaluation": verdict.evaluation}
    columns = {name: memory_figures(step) for name, step in steps.items() if step is not None}
    rows = dict.fromkeys(part for figures in columns.values() for part in figures)
    cells = [
        [part, *(_gibibytes(figures.get(part)) for figures in columns.values())] for part in rows
    ]
    available = verdict.topology.chip.memory / GIBIBYTE
    title = f"\nGiB of a chip, which has {available:.0f}, by the compiler"
    return text_table([["", *columns], *cells], title)


def too_large(verdict: Verdict) -> Iterator[str]:
    """Which step does not fit, what in it is largest, and which flags to change."""
    train = isinstance(verdict.train, TooLarge)
    step = verdict.train if train else verdict.evaluation
    stays = {part: size for part, size in step.parts.items() if part != "batch"}
    yield (
        f"The {'train' if train else 'evaluation'} step does not fit: it needs "
        f"{_gibibytes(step.needed)} GiB of a chip, and {_gibibytes(step.available)} can be used."
    )
    if sum(stays.values()) > step.temporary:
        yield (
            f"Too large: {', '.join(stays)}, {_gibibytes(sum(stays.values()))} GiB. "
            f"Change: {_split(verdict)}."
        )
    elif not train:
        size = verdict.run.config.eval.batch_size
        yield (
            f"Too large: what evaluation computes, {_gibibytes(step.temporary)} GiB. Change: "
            f"--config.eval.batch_size={max(size // 2, 1)} or less; no figure depends on it."
        )
    else:
        yield (
            "Too large: what a step computes and keeps for its backward pass, with the gradients, "
            f"{_gibibytes(step.temporary)} GiB. Change: {', or '.join(_smaller(verdict))}."
        )
    yield "The same command with --fit searches for what fits and prints it as such flags."


def _split(verdict: Verdict) -> str:
    """How the arguments of a step get smaller on a chip."""
    chips, now = len(verdict.topology.devices), verdict.run.mesh.shape["fsdp"]
    most = chips // verdict.topology.slices
    if now >= most:
        return "more chips, or chips with more memory"
    more = next(n for n in (now * 2, now * 4, now * 8, most) if n >= min(8, most))
    return f"--config.mesh.fsdp={more} --config.mesh.data=-1, which splits them over {more} chips"


def _smaller(verdict: Verdict) -> Iterator[str]:
    """How the temporary memory of a step gets smaller, cheapest first."""
    settings, remat = verdict.settings, verdict.run.config.model.remat
    if remat == "none":
        yield "--config.model.remat=dots"
    if remat != "full":
        yield "--config.model.remat=full"
    mesh = verdict.run.mesh.shape
    if settings.batch_size // settings.accumulate // (mesh["data"] * mesh["fsdp"]) > 1:
        yield f"--config.train.accumulate={2 * settings.accumulate} or more"
        yield f"--config.train.batch_size={settings.batch_size // 2} or less"
    if mesh["fsdp"] == 1 and len(verdict.topology.devices) > verdict.topology.slices:
        yield _split(verdict)


def step_table(verdict: Verdict) -> Table:
    """The work of a step, and its time at the chip's published rates."""
    figures, chip = verdict.figures(), verdict.topology.chip
    seconds, flops, chips = figures["seconds"], figures["flops"], figures["chips"]
    rows = [
        [
            "arithmetic",
            f"{flops['xla_with_recomputing'] / chips / 1e12:,.2f} TFLOP",
            f"{chip.flops / 1e12:.0f} TFLOP/s",
            _milliseconds(seconds["arithmetic"]),
        ],
        [
            "memory",
            f"about {verdict.train.traffic / 1e9:,.1f} GB of HBM",
            f"{chip.bandwidth / 1e9:,.0f} GB/s",
            _milliseconds(seconds["memory"]),
        ],
    ]
    for kind, moved in figures["collectives"].items():
        rows.append([kind, f"{moved['bytes'] / 1e6:,.1f} MB in {moved['times']}", "", ""])
    rows.append(
        ["to other chips", "", f"{chip.link / 1e9:,.0f} GB/s", _milliseconds(seconds["link"])]
    )
    if verdict.topology.slices > 1:
        rate = f"{chip.network / 1e9:,.1f} GB/s{chip.network_note and ' ' + chip.network_note}"
        rows.append(["to other slices", "", rate, _milliseconds(seconds["network"])])
    rows.append(["a step", "", "", _milliseconds(seconds["step"])])
    return text_table(
        [["", "of a chip", "published rate", "milliseconds"], *rows],
        "\nA train step: the longer of arithmetic and memory, plus transfers between chips",
    )


def _run(figures: dict) -> Iterator[str]:
    flops = figures["flops"]
    again, ratio = flops["xla_with_recomputing"] / flops["xla"] - 1, flops["ours"] / flops["xla"]
    yield (
        f"\n{flops['ours'] / 1e12:,.2f} TFLOP a step by our formulas, {flops['xla'] / 1e12:,.2f} "
        f"by XLA's count (ours/XLA {ratio:.3f}); recomputing adds {again:.0%}"
    )
    yield (
        f"{figures['examples_per_second']:,.0f} pairs/s, "
        f"{figures['utilisation']:.0%} of the chips' peak (MFU, without what is recomputed); every "
        f"host's input has to deliver {figures['examples_per_second_per_host']:,.0f} pairs a second"
    )
    yield (
        f"{figures['steps']:,} steps: {_hours(figures['hours'])} hours, "
        f"{_hours(figures['chip_hours'])} chip-hours"
    )


def in_short(verdict: Verdict) -> str:
    """One line on a plan."""
    if not verdict.fits:
        return " ".join(too_large(verdict)).partition(" The same command")[0]
    figures = verdict.figures()
    return (
        f"fits: {_gibibytes(figures['memory']['train']['total'])} of "
        f"{verdict.topology.chip.memory / GIBIBYTE:.0f} GiB, "
        f"{_milliseconds(figures['seconds']['step'])} ms a step, "
        f"{figures['examples_per_second']:,.0f} pairs/s"
    )


def several(verdicts: list[tuple[str, Verdict]]) -> Iterator[str | Table]:
    """A table of plans, what to change in those that do not fit, and how to read the table."""
    head = ["size", "chips", "mesh", "remat", "pairs", "GiB a chip", "TFLOP", "ours/XLA"]
    head += ["ms", "pairs/s", "peak", "bound by", "hours", "chip-hours"]
    yield text_table([head, *(_line(name, verdict) for name, verdict in verdicts)], "")
    for name, verdict in verdicts:
        if not verdict.fits:
            yield f"\n{name} on {verdict.topology}: {in_short(verdict)}"
    yield (
        "\nmesh: data x fsdp x tensor. pairs: a step. TFLOP: a step's, by our formulas; ours/XLA: "
        "against XLA's\ncount of it. peak: the share of the chips' that these operations take "
        "(MFU).\n\n" + READING
    )


def _line(name: str, verdict: Verdict) -> list[str]:
    figures = verdict.figures()
    mesh = "x".join(str(size) for size in figures["mesh"].values())
    flops, of = figures["flops"], f"/{verdict.topology.chip.memory / GIBIBYTE:.0f}"
    needs = (
        verdict.train.needed if isinstance(verdict.train, TooLarge) else verdict.train.memory.total
    )
    first = [name, figures["topology"], mesh, figures["remat"], f"{figures['batch_size']:,}"]
    first += [_gibibytes(needs) + of, f"{flops['ours'] / 1e12:,.1f}"]
    first += [f"{flops['ours'] / flops['xla']:.3f}"]
    if not verdict.fits:
        return [*first, "too large", *["-"] * 5]
    seconds = figures["seconds"]
    return [
        *first,
        _milliseconds(seconds["step"]),
        f"{figures['examples_per_second']:,.0f}",
        f"{figures['utilisation']:.0%}",
        max(("arithmetic", "memory", "link", "network"), key=seconds.get),
        _hours(figures["hours"]),
        _hours(figures["chip_hours"]),
    ]


def _gibibytes(size: float | None) -> str:
    return "" if size is None else f"{size / GIBIBYTE:.2f}"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.3f}"
