"""Figures that several notebooks share, and the style of all of them. Only notebooks import this; it needs matplotlib."""

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.patches import FancyBboxPatch, Rectangle

# Okabe & Ito's colors, which the color-blind tell apart; lines also differ in style, for prints in gray.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
GRAY, PALE = "#767676", "#EDEDED"
SHADE = LinearSegmentedColormap.from_list("shade", ["#FFFFFF", "#FBE3B0", ORANGE])     # behind black text


def use_style():
    """Set matplotlib's defaults for the rest of the notebook."""
    plt.rcParams.update({
        "figure.dpi": 110, "figure.figsize": (8, 3.2), "figure.constrained_layout.use": True,
        "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.titleweight": "bold",
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "image.cmap": "cividis",
        "axes.prop_cycle": cycler(color=[BLUE, RED, GREEN, PINK, SKY, ORANGE, BLACK],
                                  linestyle=["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1))]),
    })


# The parts of a Llama: name: [(label, number of the notebook that derives it, center, width, height above the residual stream)]
PARTS = {
    "tokens": [("tokenizer", "01", 8, 8.6, 0)],
    "embedding": [("embedding", "01", 20.5, 9.6, 0)],
    "norm": [("norm", "02", 33, 6, 9), ("norm", "02", 69, 6, 9), ("norm", "02", 88.5, 6, 0)],
    "gqa": [("q · k · v\nheads", "05", 40.7, 7, 9)],
    "rope": [("RoPE", "04", 48.4, 6, 9)],
    "attention": [("attention", "03", 57, 8.8, 9)],
    "cache": [("KV cache", "08", 57, 8.8, 18)],
    "ffn": [("SwiGLU", "06", 76.7, 7, 9)],
    "logits": [("lm_head", "07", 98, 8, 0)],
    "sample": [("sample", "08", 109.2, 7.4, 0)],
}


def model_map(*lit, config=None):
    """A small map of the whole model, with the named parts lit up.

    lit:    names from PARTS, or "block"; none lights all of them evenly.
    config: a `LlamaConfig`, to write its sizes in place of their names.
    """
    if unknown := set(lit) - {*PARTS, "block"}:
        raise ValueError(f"no part {sorted(unknown)}; the parts are {', '.join([*PARTS, 'block'])}")
    names = ("dim", "vocab_size", "n_layers")
    dim, vocab_size, n_layers = (getattr(config, name) for name in names) if config else names
    fig, ax = plt.subplots(figsize=(9.6, 2.75), layout="none")
    fig.subplots_adjust(0, 0, 1, 1)
    ax.set(xlim=(-4, 120), ylim=(-9.8, 24.5))
    ax.axis("off")

    def arrow(*points, style="-|>"):
        """A line along the points, with a head at the last."""
        ax.plot(*zip(*points), color=BLACK, lw=1, ls="-", zorder=1)
        ax.annotate("", points[-1], points[-2], arrowprops={"arrowstyle": style, "color": BLACK, "lw": 1, "shrinkA": 0, "shrinkB": 0})

    face, edge, width = ("#FDF3DC", RED, 1.8) if "block" in lit else ("#F7F7F7", GRAY, 1)
    ax.add_patch(FancyBboxPatch((27.5, -3.2), 56, 26.2, boxstyle="round,pad=0,rounding_size=1.5", zorder=0,
                                facecolor=face, edgecolor=edge, linewidth=width))
    ax.text(29.5, 20.6, f"block  × {n_layers}", va="center", fontsize=8.5, weight="bold")
    ax.text(29.5, 17.6, "06", va="center", fontsize=6.5, color=GRAY)
    ax.plot([25.3, 85], [0, 0], color=BLACK, lw=3.2, ls="-", zorder=1, solid_capstyle="butt")           # the residual stream
    for start, stop in ((28.8, 62.8), (64.8, 81.7)):                                   # each branch reads the stream and is added to it
        arrow((start, 0), (start, 9), (stop, 9), (stop, 1.1))
        ax.text(stop, 0, "+", ha="center", va="center", fontsize=10, zorder=4,
                bbox={"boxstyle": "circle,pad=0.05", "facecolor": "white", "edgecolor": BLACK})
    arrow((57, 12), (57, 15), style="<|-|>")
    for start, stop in ((-2, 3.7), (12.3, 15.7), (91.5, 94), (102, 105.5)):
        arrow((start, 0), (stop, 0))
    arrow((112.9, 0), (116, 0), (116, -7.4), (0.5, -7.4), (0.5, -0.4))                  # the new token joins those before it
    for x, y, text in ((-2, 2.2, "text"), (14, -4.9, "ids\n[T]"), (55, -5, f"residual stream x  [T, {dim}]"), (116, 2.2, "text"),
                       (103.5, -5, f"logits  [T, {vocab_size}]"), (58, -8.9, "the new token joins the others, and all begins again")):
        ax.text(x, y, text, ha="center", va="center", fontsize=7.5, linespacing=1.05)
    for name, boxes in PARTS.items():
        face, edge = (ORANGE, BLACK) if name in lit else (PALE, GRAY) if lit else ("#CFE8F7", BLUE)
        for label, notebook, x, width, y in boxes:
            ax.add_patch(FancyBboxPatch((x - width / 2, y - 3), width, 6, boxstyle="round,pad=0,rounding_size=0.8", zorder=3,
                                        facecolor=face, edgecolor=edge, linewidth=1.6 if name in lit else 1))
            ax.text(x, y + 0.7, label, ha="center", va="center", fontsize=8, zorder=5, weight="bold" if name in lit else "normal", linespacing=0.95)
            ax.text(x, y - 2.1, notebook, ha="center", va="center", fontsize=6.5, zorder=5, color=BLACK if name in lit else GRAY)
    return ax


def text_map(ax, pieces, values, columns=92, vmax=None):
    """A text as its tokens, each shaded by its value; returns the shades, for `plt.colorbar`.

    pieces: names of tokens as SentencePiece writes them; values: one number of 0 or more for each.
    """
    pieces = [piece.replace("▁", " ").replace("<0x0A>", "\n") for piece in pieces]
    starts = [i for i, piece in enumerate(pieces) if piece[:1] in (" ", "\n", "<") or i == 0] + [len(pieces)]
    shades = ScalarMappable(Normalize(0, vmax or max(values)), SHADE)
    column = row = 0
    for start, stop in zip(starts, starts[1:]):                                        # a word is never broken
        if pieces[start] == "\n" or column + sum(map(len, pieces[start:stop])) > columns:
            column, row = 0, row + 1
        for piece, value in zip(pieces[start:stop], values[start:stop]):
            piece = piece.strip("\n") if column else piece.strip()
            ax.add_patch(Rectangle((column, row), len(piece), 0.86, facecolor=shades.to_rgba(value), edgecolor="white", linewidth=0.6))
            for i, letter in enumerate(piece):
                ax.text(column + i + 0.5, row + 0.45, letter, ha="center", va="center", family="monospace", fontsize=8.5)
            column += len(piece)
    ax.set(xlim=(0, columns), ylim=(row + 1, 0), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return shades


def attention_map(ax, probabilities, pieces, size=7):
    """Which token (row) looks at which (column). probabilities [T_q, T_kv] → the image, for `plt.colorbar`.

    pieces: T_kv names of tokens, written at the axes, or None. Shades go with the square root, so that small shares show.
    """
    T_q, T_kv = probabilities.shape
    image = ax.imshow(probabilities, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    if pieces is not None:
        labels = [piece.replace("<0x0A>", "↵") for piece in pieces]
        ax.set_xticks(range(T_kv), labels, rotation=90, fontsize=size)
        ax.set_yticks(range(T_q), labels[T_kv - T_q:], fontsize=size)
    ax.set(xlabel="key: the token looked at", ylabel="query: the token that looks")
    return image
