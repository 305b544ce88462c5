"""A plan on the screen: memory, a step, the run; or a line for each of several."""

from collections.abc import Iterator

from rich.table import Table

from cmaclip_jax.commands.figures import text_table
from cmaclip_jax.parallel.costs import TooLarge
from cmaclip_jax.planning.verdict import Verdict, memory_figures

GIBIBYTE = 2**30


def assumptions(config, options) -> Iterator[str]:
    """What was taken for granted, since no data was looked at; each with the way to say it."""
    if not options.tasks:
        yield "assumed: one task of 100 classes; say yours with --tasks=NAME:CLASSES,..."
    if config.data.text_length == -1:
        yield (
            "assumed: texts as long as the encoder takes them; say what your data needs with "
            "--config.data.text_length=32"
        )
    if config.model.pretrained and not options.sizes:
        yield (
            f"assumed: {config.model.pretrained} is of the size model.image={config.model.image}, "
            "where it does not lie on this disk"
        )


def whole(name: str, verdict: Verdict) -> Iterator[str | Table]:
    """One plan, part by part."""
    figures = verdict.figures()
    mesh = " x ".join(f"{axis}={size}" for axis, size in figures["mesh"].items())
    yield (
        f"{name} on {figures['topology']}: {figures['chips']} chips, {figures['hosts']} host(s), "
        f"mesh {mesh}\n{figures['parameters']:,} parameters, {figures['batch_size']:,} pairs a step"
    )
    yield memory_table(verdict)
    for step in (verdict.train, verdict.evaluation):
        if isinstance(step, TooLarge):
            split = ", mesh.fsdp=-1 with mesh.data=1" if figures["chips"] > 1 else ""
            yield (
                f"does not fit: it needs {step.needed / GIBIBYTE:.1f} GiB beside its arguments, "
                f"and there are {step.available / GIBIBYTE:.1f}; --fit searches for what fits, of "
                f"train.accumulate=2 and more, model.remat=full{split}"
            )
            return
    yield step_table(verdict)
    yield from _run(figures)


def memory_table(verdict: Verdict) -> Table:
    """GiB of a chip, by what they are for."""
    steps = {"train": verdict.train, "evaluation": verdict.evaluation}
    columns = {name: memory_figures(step) for name, step in steps.items() if step is not None}
    rows = dict.fromkeys(part for figures in columns.values() for part in figures)
    cells = [
        [part, *(_gibibytes(figures.get(part)) for figures in columns.values())] for part in rows
    ]
    available = verdict.topology.chip.memory / GIBIBYTE
    return text_table([["", *columns], *cells], f"\nGiB of a chip, which has {available:.0f}")


def step_table(verdict: Verdict) -> Table:
    """What a step does, and the time for it at the chip's published rates."""
    figures, chip = verdict.figures(), verdict.topology.chip
    seconds, flops, chips = figures["seconds"], figures["flops"], figures["chips"]
    rows = [
        [
            "arithmetic",
            f"{flops['counted'] / chips / 1e12:,.2f} TFLOP",
            f"{chip.flops / 1e12:.0f} TFLOP/s",
            _milliseconds(seconds["arithmetic"]),
        ],
        [
            "memory",
            f"{verdict.train.traffic / 1e9:,.1f} GB of HBM",
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
        rate = f"{chip.network / 1e9:,.1f} GB/s"
        rows.append(["to other slices", "", rate, _milliseconds(seconds["network"])])
    rows.append(["a step", "", "", _milliseconds(seconds["step"])])
    return text_table(
        [["", "of a chip", "published rate", "milliseconds"], *rows],
        "\nA step: the longer of arithmetic and memory, and then what goes between chips",
    )


def _run(figures: dict) -> Iterator[str]:
    flops = figures["flops"]
    yield (
        f"\n{flops['counted'] / 1e12:,.2f} TFLOP a step by XLA's count, recomputing included; "
        f"{flops['needed'] / 1e12:,.2f} by ours, without"
    )
    yield (
        f"{figures['examples_per_second']:,.0f} examples/s, "
        f"{figures['utilisation']:.0%} of the chips' peak; every host's input pipeline has to "
        f"deliver {figures['examples_per_second_per_host']:,.0f} a second"
    )
    yield (
        f"{figures['steps']:,} steps: {figures['hours']:.2f} hours, {figures['chip_hours']:,.1f} "
        "chip-hours, without compiling, evaluating and saving; no chip reaches its published "
        "rates, so expect more"
    )


def comparison(verdicts: list[tuple[str, Verdict]]) -> Table:
    """A line for every plan."""
    head = ["size", "chips", "mesh", "batch", "GiB a chip", "ms a step", "examples/s"]
    head += ["of peak", "bound by", "hours", "chip-hours"]
    return text_table([head, *(_line(name, verdict) for name, verdict in verdicts)], "")


def _line(name: str, verdict: Verdict) -> list[str]:
    figures = verdict.figures()
    mesh = "x".join(str(size) for size in figures["mesh"].values())
    first = [name, figures["topology"], mesh, f"{figures['batch_size']:,}"]
    if not verdict.fits:
        return [*first, "too large", *["-"] * 6]
    seconds = figures["seconds"]
    return [
        *first,
        _gibibytes(figures["memory"]["train"]["total"]),
        _milliseconds(seconds["step"]),
        f"{figures['examples_per_second']:,.0f}",
        f"{figures['utilisation']:.0%}",
        max(("arithmetic", "memory", "link", "network"), key=seconds.get),
        f"{figures['hours']:.2f}",
        f"{figures['chip_hours']:,.1f}",
    ]


def _gibibytes(size: float | None) -> str:
    return "" if size is None else f"{size / GIBIBYTE:.2f}"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"
