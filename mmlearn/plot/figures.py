"""The few figures that chapters need: pictures with captions, curves, heat maps, bars."""

import html
import io
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mmlearn.errors import MMLearnError, ShapeError

# Okabe and Ito (2008), "Color Universal Design"; the order keeps neighbours apart in grey as well
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DPI = 110

STYLE = {
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "figure.figsize": (6.4, 3.6),
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "image.cmap": "viridis",
}
mpl.rcParams.update(STYLE)


def show(figure: Figure, *, alt: str) -> None:
    """Show a figure with its alternative text (one or two sentences: what is to be seen) and close it.

    The text is kept beside the picture as ``alt`` (nbconvert passes it on) and stands folded under it, because
    JupyterLab gives no picture of an output an ``alt`` of its own. Raises :class:`MMLearnError` where the text is
    missing or too short to say anything.
    """
    if len(alt.split()) < 4:
        raise MMLearnError(f"alt={alt!r} says too little: write what is to be seen, in one or two sentences")
    from IPython.display import Image, display

    display(Image(data=to_png(figure), format="png", alt=alt))
    folded = f"<details><summary><small>The figure in words</small></summary>{html.escape(alt)}</details>"
    display({"text/html": folded, "text/plain": alt}, raw=True)
    plt.close(figure)


def to_png(figure: Figure) -> bytes:
    """A figure as a small PNG."""
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    return shrink(raw.getvalue())


def shrink(png: bytes) -> bytes:
    """A PNG with a palette of 256 colours where that changes nothing to be seen, else optimised as it is.

    Curves need few colours; the gradients of drawn scenes would show bands and keep all of theirs.
    """
    from PIL import Image

    picture = Image.open(io.BytesIO(png))
    if picture.mode == "P":
        return png
    full = picture.convert("RGB")
    small = full.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    error = np.abs(np.asarray(small.convert("RGB"), dtype=np.int16) - np.asarray(full, dtype=np.int16))
    out = io.BytesIO()
    (full if error.mean() > 0.5 else small).save(out, format="png", optimize=True)
    return min(out.getvalue(), png, key=len)


def pictures(
    images: Tensor | Sequence[Tensor],
    captions: Sequence[str] | None = None,
    *,
    columns: int = 8,
    size: float = 1.4,
    title: str | None = None,
    colours: Sequence[str] | None = None,
    wrap: int = 22,
) -> Figure:
    """A sheet of pictures (uint8 or float in 0…1, (B, 3, H, W)) with a caption under each.

    ``colours`` gives each caption a colour, say to mark right and wrong beside a word that says so.
    """
    images = [_to_array(image) for image in images]
    if not images:
        raise ShapeError("there are no pictures to show")
    if captions is not None and len(captions) != len(images):
        raise ShapeError(f"{len(images)} pictures but {len(captions)} captions: give one each")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    texts = [_fold(caption, wrap) for caption in captions or [""] * len(images)]
    lines = max(text.count("\n") + bool(text) for text in texts)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * size, rows * (size + 0.16 * lines)), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (axis, image, text) in enumerate(zip(axes.flat, images, texts, strict=False)):
        axis.imshow(image, interpolation="nearest" if image.shape[0] < 64 else "antialiased")
        colour = colours[i] if colours else "#222222"
        axis.text(0.5, -0.04, text, transform=axis.transAxes, ha="center", va="top", fontsize=7.5, color=colour)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def curves(
    series: Mapping[str, Sequence],
    *,
    x: Sequence | None = None,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    lines: Mapping[str, float] | None = None,
    log: str = "",
    markers: bool = False,
) -> Figure:
    """Curves by name. A value is a list of y (with ``x`` or 0, 1, 2 …) or a pair (x, y).

    ``lines`` draws named dashed levels (chance, a bound); ``log`` is "", "x", "y" or "xy".
    """
    figure, axis = plt.subplots()
    for i, (name, values) in enumerate(series.items()):
        xs, ys = values if isinstance(values, tuple) else (range(len(values)) if x is None else x, values)
        axis.plot(_numbers(xs), _numbers(ys), label=name, marker=MARKERS[i % 8] if markers else None, markersize=5)
    for i, (name, level) in enumerate((lines or {}).items()):
        axis.axhline(level, color="#555555", linestyle=("--", ":", "-.")[i % 3], linewidth=1.3, label=name)
    if "x" in log:
        axis.set_xscale("log")
    if "y" in log:
        axis.set_yscale("log")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.set_title(title or "")
    if len(series) + len(lines or {}) > 1:
        axis.legend()
    return figure


def heatmap(
    values: Tensor | np.ndarray,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str | None = None,
    numbers: bool | None = None,
    limits: tuple[float, float] | None = None,
    size: float = 0.42,
) -> Figure:
    """A matrix as colours with a scale, and as numbers where it is small (up to 100 entries)."""
    values = np.asarray(_numbers(values), dtype=float)
    if values.ndim != 2:
        raise ShapeError(f"a heat map needs a matrix, got the shape {values.shape}")
    height, width = values.shape
    figure, axis = plt.subplots(figsize=(max(3.2, width * size + 2), max(2.2, height * size + 1)))
    axis.grid(False)
    low, high = limits or (np.nanmin(values[np.isfinite(values)]), np.nanmax(values[np.isfinite(values)]))
    image = axis.imshow(values, vmin=low, vmax=high, aspect="auto" if width * height > 1600 else "equal")
    figure.colorbar(image, ax=axis, shrink=0.85)
    if rows is not None:
        axis.set_yticks(range(height), rows)
    if columns is not None:
        axis.set_xticks(
            range(width),
            columns,
            rotation=45 if max(map(len, columns)) > 3 else 0,
            ha="right" if max(map(len, columns)) > 3 else "center",
        )
    if numbers if numbers is not None else values.size <= 100:
        for (i, j), value in np.ndenumerate(values):
            dark = np.isfinite(value) and (value - low) / ((high - low) or 1) < 0.55
            axis.text(
                j, i, f"{round(value, 2):.3g}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
            )
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.set_title(title or "")
    return figure


def bars(
    values: Mapping[str, float],
    *,
    xlabel: str,
    title: str | None = None,
    lines: Mapping[str, float] | None = None,
    digits: int = 2,
) -> Figure:
    """Horizontal bars by name, each with its number; ``lines`` draws named levels such as chance."""
    names = list(values)
    figure, axis = plt.subplots(figsize=(6.4, 0.5 * len(names) + 1.1))
    axis.barh(names, list(values.values()), color=PALETTE[0], height=0.62)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    for i, value in enumerate(values.values()):
        axis.text(value, i, f" {value:.{digits}f}", va="center", fontsize=9, zorder=5).set_bbox(
            {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        )
    for i, (name, level) in enumerate((lines or {}).items()):
        axis.axvline(level, color=PALETTE[3], linestyle=("--", ":", "-.")[i % 3], linewidth=1.5, label=name)
    axis.margins(x=0.12)
    axis.set(xlabel=xlabel)
    axis.set_title(title or "")
    if lines:
        figure.legend(loc="outside upper right", ncols=len(lines))
    return figure


def _to_array(image: Tensor | np.ndarray) -> np.ndarray:
    """(3, H, W) or (H, W), uint8 or float in 0…1, as something that imshow takes."""
    image = torch.as_tensor(image).detach().cpu()
    if image.dim() == 3 and image.shape[0] in (1, 3):
        image = image.permute(1, 2, 0).squeeze(-1)
    if image.dim() not in (2, 3):
        raise ShapeError(f"a picture has the shape (3, H, W) or (H, W), got {tuple(image.shape)}")
    return image.numpy() if image.dtype == torch.uint8 else image.float().clamp(0, 1).numpy()


def _numbers(values) -> np.ndarray:
    """Tensors, lists of tensors and ranges as a NumPy array."""
    if isinstance(values, Tensor):
        return values.detach().float().cpu().numpy()
    return np.asarray([v.item() if isinstance(v, Tensor) and v.dim() == 0 else v for v in values])


def _fold(text: str, width: int) -> str:
    return "\n".join(line for part in text.splitlines() for line in textwrap.wrap(part, width) or [""])
