"""One hand for the schematics of the notebooks: boxes and arrows."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What an arrow is drawn as, by its kind.
_STYLES = {
    "network": {"linestyle": "-", "linewidth": 1.8},
    "arrow": {"linestyle": "-", "linewidth": 1.0},
    "noise": {"linestyle": "--", "linewidth": 1.0},
}


def plot_schematic(
    boxes: Mapping[str, tuple[float, float, str]],
    arrows: Sequence[tuple],
    *,
    width: float = 7.0,
) -> "Figure":
    """Draws a model: boxes for tensors, arrows for what makes them.

    Args:
        boxes: for each name `(x, y, text)`: the middle of its box in inches,
            x to the right and y upwards, and what stands in it. A text may
            have several lines, and formulas between dollar signs.
        arrows: `(from, to)`, `(from, to, label)` or `(from, to, label, kind)`,
            where `from` and `to` are names of boxes. The kind is "network"
            (thick; the default if there is a label), "arrow" (thin; the
            default if there is none) or "noise" (dashed).
        width: of the figure, in inches. The rest follows.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ValueError: if an arrow's end is not a box, or its kind is unknown.

    Example:
    >>> from vae_keras.schematics import plot_schematic
    >>> figure = plot_schematic(
    ...     {"x": (0, 0, "image"), "z": (2, 0, "latent"), "e": (2, 1, "noise")},
    ...     [("x", "z", "encoder"), ("e", "z", "", "noise")],
    ... )
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['image', 'latent', 'noise', '', 'encoder', '']
    """
    import matplotlib.pyplot as plt

    xs, ys, _ = zip(*boxes.values(), strict=True)
    left, right = min(xs) - 0.7, max(xs) + 0.7
    low, high = min(ys) - 0.45, max(ys) + 0.45
    height = width * (high - low) / (right - left)
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    if "inline" in plt.get_backend():
        plt.close(figure)  # It is shown as the cell's value, and only so.
    axes.set(xlim=(left, right), ylim=(low, high), aspect="equal")
    axes.axis("off")
    color = plt.rcParams["text.color"]
    patches = {}
    for name, (x, y, text) in boxes.items():
        frame = {
            "boxstyle": "round,pad=0.4",
            "facecolor": axes.get_facecolor(),
            "edgecolor": color,
        }
        drawn = axes.text(
            x, y, text, ha="center", va="center", bbox=frame, zorder=1
        )
        patches[name] = drawn.get_bbox_patch()
    for start, end, *rest in arrows:
        label, kind = (*rest, *("", "")[len(rest) :])
        kind = kind or ("network" if label else "arrow")
        if not {start, end} <= boxes.keys() or kind not in _STYLES:
            raise ValueError(
                "Expected an arrow from one box to another, of kind "
                f"{', '.join(map(repr, _STYLES))}. Received: "
                f"{(start, end, label, kind)!r}. The boxes are "
                f"{', '.join(map(repr, boxes))}."
            )
        axes.annotate(
            "",
            boxes[end][:2],
            boxes[start][:2],
            arrowprops={
                "arrowstyle": "-|>",
                "color": color,
                "patchA": patches[start],
                "patchB": patches[end],
                **_STYLES[kind],
            },
            # Above the boxes: a second drawing then ends at their borders.
            zorder=2,
        )
        if label:
            (x_1, y_1, _), (x_2, y_2, _) = boxes[start], boxes[end]
            axes.annotate(
                label,
                ((x_1 + x_2) / 2, (y_1 + y_2) / 2),
                (0, 4),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=9,
            )
    return figure
