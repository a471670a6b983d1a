"""Writing pictures: figures as PNG, figures that move as GIF."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Animation:
    """A figure that moves: `update(k)` changes it into frame k of `frames`; shown `fps` frames a second."""

    figure: Figure
    update: Callable[[int], Any]
    frames: int
    fps: int


def animate(figure: Figure, update: Callable[[int], Any], frames: int, fps: int = 10) -> Animation:
    """A film of `frames` frames: before frame k, from 0, `update(k)` is called and changes `figure`.

    Nothing is drawn before `save(animation, "name.gif")`. The layout is that of frame 0, so nothing jumps.
    """
    if not isinstance(frames, int) or frames < 1:
        raise ValueError(f"frames is {frames!r}, wanted an int of at least 1")
    if not isinstance(fps, int) or not 1 <= fps <= 50:
        raise ValueError(f"fps is {fps!r}, wanted an int from 1 to 50, the most a GIF file can say")
    return Animation(figure, update, frames, fps)


def save(picture: Figure | Animation, path: str | os.PathLike[str], dpi: float = 150) -> None:
    """Write a figure to `path` (must end in .png), or an animation (.gif), at `dpi` pixels per inch.

    The file appears whole or not at all.
    """
    target = Path(path)
    ending = ".gif" if isinstance(picture, Animation) else ".png"
    if target.suffix.lower() != ending:
        raise ValueError(f"path is {str(target)!r}, wanted a name that ends in {ending}")
    if not 0 < dpi < math.inf:
        raise ValueError(f"dpi is {dpi!r}, wanted a finite number above 0")
    # Written beside the target: only a rename within one file system is atomic.
    partial = target.with_name(f".{target.name}.{os.getpid()}.part{ending}")
    try:
        if isinstance(picture, Animation):
            _write_gif(picture, partial, dpi)
        else:
            picture.savefig(partial, format="png", dpi=dpi)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _write_gif(animation: Animation, path: Path, dpi: float) -> None:
    """Draw every frame once and let Pillow, which matplotlib brings along, put them into one file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure = animation.figure
    canvas, dots, engine = figure.canvas, figure.dpi, figure.get_layout_engine()
    pictures = []
    try:
        agg = FigureCanvasAgg(figure)
        figure.set_dpi(dpi)
        for k in range(animation.frames):
            animation.update(k)
            agg.draw()  # type: ignore[no-untyped-call]
            if k == 0:
                figure.set_layout_engine("none")  # keeps the places that this drawing has found
            pixels = np.asarray(agg.buffer_rgba())  # type: ignore[no-untyped-call]
            pictures.append(Image.fromarray(pixels[..., :3].copy()))
    finally:
        figure.set_canvas(canvas)
        figure.set_dpi(dots)
        if engine is not None:
            figure.set_layout_engine(engine)
    # One palette for all frames: with one each, colours change from frame to frame, and the file is ten times
    # as large. It covers the colours of three frames evenly, so that thin lines keep theirs.
    some = np.concatenate([np.asarray(pictures[k]) for k in (0, len(pictures) // 2, -1)])
    palette = Image.fromarray(some).quantize(256, Image.Quantize.MAXCOVERAGE)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    duration = 10 * round(100 / animation.fps)  # a GIF counts in hundredths of a second
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, loop=0)
