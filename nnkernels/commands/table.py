"""How measurements are printed: columns, and numbers in them."""

from nnkernels.commands.measure import Measurement

ERRORS = """\
error: largest difference of any element from `loops`, in units of that element's last place (sums that cancel
  leave small elements, where these are many), and relative to the largest element"""
HEAD = f"{'':<14}{'error/ULP':>11}{'relative':>11}{'time':>13}{'GFLOP/s':>12}{'speed-up':>12}"


def in_columns(row: Measurement) -> str:
    """Return one line of the table."""
    about = "~" if row.estimated else ""
    rate = "-" if row.gflops is None else about + number(row.gflops)
    return (
        f"  {row.body:<12}{number(row.ulp):>11}{number(row.relative):>11}{about + duration(row.seconds):>13}"
        f"{rate:>12}{about + factor(row.speedup):>12}"
    )


def number(value: float) -> str:
    """Return three significant digits."""
    if value == 0:
        return "0"
    if 999.5 <= value < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}" if 1e-3 <= value < 999.5 else f"{value:.1e}"


def factor(speedup: float) -> str:
    """Return a speed-up, as a fraction where it is none."""
    return f"{number(speedup)}x" if speedup >= 0.1 else f"1/{number(1 / speedup)}x"


def duration(seconds: float) -> str:
    """Return seconds in the unit that suits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
