"""Runs the benchmark, prints its figures as a table and writes them to `build/bench.json`.

Each area is measured in a process of its own, so that none inherits another's memory or threads. Usage:
`python -m benchmarks [AREA ...] [--output FILE] [--strict]`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.figure import Figure

FOLDER = Path(__file__).parent
console = Console()


def modules() -> dict[str, str]:
    """The modules that measure, by the name to select them with."""
    return {path.stem.removesuffix("_figures"): path.stem for path in sorted(FOLDER.glob("*_figures.py"))}


def measure_here(module: str, output: Path) -> None:
    """Measures one module's figures in this process and writes them to `output` as they come, one JSON line each."""
    with output.open("w") as lines:
        for figure in import_module(f"benchmarks.{module}").figures():
            lines.write(json.dumps(asdict(figure)) + "\n")
            lines.flush()
            line = f"  {figure.area} · {figure.name}: {figure.value:.4g} {figure.unit}  {figure.goal}"
            console.print(line, markup=False, highlight=False)


def measure(module: str) -> tuple[list[Figure], bool]:
    """Measures one module in a child process; returns what it measured and whether it came to its end."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "figures")
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks", "--module", module, "--output", output], check=False
        )
        lines = output.read_text().splitlines() if output.exists() else []
    return [Figure(**json.loads(line)) for line in lines], child.returncode == 0


def machine() -> str:
    """The machine in one line."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def table(figures: list[Figure]) -> Table:
    """The figures as a person reads them."""
    shown = Table(title=f"Tierflow on {machine()}")
    for column in ("area", "figure", "value", "goal", "holds"):
        shown.add_column(column, justify="right" if column == "value" else "left")
    for figure in figures:
        holds = {None: "", True: "[green]yes[/]", False: "[red]no[/]"}[figure.holds]
        shown.add_row(figure.area, escape(figure.name), f"{figure.value:.4g} {figure.unit}", figure.goal, holds)
    return shown


def main() -> int:
    """Runs what the arguments ask for; 1 where a module failed, or with --strict where a goal doesn't hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"one of {', '.join(modules())}; all by default")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"), help="where the figures are written")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a goal doesn't hold")
    parser.add_argument("--module", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.module:
        measure_here(chosen.module, chosen.output)
        return 0
    unknown = [area for area in chosen.areas if area not in modules()]
    if unknown:
        parser.error(f"no area is named {', '.join(unknown)}; there are {', '.join(modules())}")
    figures: list[Figure] = []
    failed = []
    for area in chosen.areas or modules():
        began = time.monotonic()
        console.print(f"[bold]{area}[/]")
        measured, finished = measure(modules()[area])
        figures += measured
        if not finished:
            failed.append(area)
        console.print(f"  took {time.monotonic() - began:.0f} s")
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    console.print(table(figures))
    console.print(f"written to {chosen.output}")
    if failed:
        console.print(f"[red]not measured to the end: {', '.join(failed)}[/]")
    missed = [figure for figure in figures if figure.holds is False]
    return 1 if failed or (chosen.strict and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
