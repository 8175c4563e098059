"""Numbers -> inline SVG that follows the page's colours (CSS variables) and needs nothing from outside.

Sizes are in SVG units; the page scales a drawing to its column.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from jobs.evaluate.page import share

CURVE_WIDTH, CURVE_HEIGHT = 440, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 26
"""Room around a curve for its axis labels."""
LABEL_WIDTH = 30
"""Of a number of four digits below a column."""
BAR_WIDTH, BAR_HEIGHT, BAR_STEP = 300, 8, 40
NODE_WIDTH, NODE_HEIGHT, COLUMN_STEP, ROW_STEP = 150, 46, 196, 76
ARCH = 62
"""How far the control points of a line that passes over a column are lifted: its top is 3/4 of that, clear of the boxes."""
ARCH_ROOM = 28
"""Above the first row, for such lines."""


@dataclass(frozen=True)
class Node:
    """A box of the lineage graph.

    Example:
        Node(identity="cpt-9f2c...", name="cpt", note="cpt · 9f2c04aa", parents=("model-77..", "shards-01.."))
    """

    identity: str
    name: str
    note: str
    parents: tuple[str, ...]


def curve(steps: Sequence[float], values: Sequence[float], label: str) -> Markup:
    """A line of `values` over `steps`, with the first and last value written out. At least one point."""
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    low, high = low - margin, high + margin
    first, last = steps[0], steps[-1]

    def x(step: float) -> float:
        return LEFT + (step - first) / ((last - first) or 1) * (CURVE_WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (CURVE_HEIGHT - TOP - BOTTOM)

    points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in zip(steps, values, strict=True))
    grid = []
    for part in range(4):
        value = low + (high - low) * (part + 0.5) / 4
        grid.append(
            f'<line class="grid" x1="{LEFT}" x2="{CURVE_WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text class="axis" x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>'
        )
    ends = (
        f'<text class="axis" x="{LEFT}" y="{CURVE_HEIGHT - 6}">step {first:g}</text>'
        f'<text class="axis" x="{CURVE_WIDTH - RIGHT}" y="{CURVE_HEIGHT - 6}" text-anchor="end">step {last:g}</text>'
        f'<circle class="dot" cx="{x(last):.1f}" cy="{y(values[-1]):.1f}" r="3.5"/>'
    )
    line = f'<polyline class="line" points="{points}"/>'
    return _svg(CURVE_WIDTH, CURVE_HEIGHT, label, "".join(grid) + line + ends)


def bars(values: Mapping[str, float], label: str) -> Markup:
    """One horizontal bar a name, from zero, so that lengths compare as the values do; the last one is stressed."""
    longest = max(values.values())
    last = len(values) - 1
    drawn = [
        _bar(number, name, f"{value:.2f}", value / longest, "bar stressed" if number == last else "bar")
        for number, (name, value) in enumerate(values.items())
    ]
    return _svg(BAR_WIDTH, len(values) * BAR_STEP, label, "".join(drawn))


def shares(counts: Mapping[str, int], label: str) -> Markup:
    """One horizontal bar a name, as long as its share of the sum. At least one count that is not 0."""
    total = sum(counts.values())
    drawn = [
        _bar(number, name, f"{count:,}, {share(count / total)}", count / total, "bar")
        for number, (name, count) in enumerate(counts.items())
    ]
    return _svg(BAR_WIDTH, len(counts) * BAR_STEP, label, "".join(drawn))


def _bar(number: int, name: str, value: str, part: float, kind: str) -> str:
    """The `number`-th bar from above, `part` of the width long."""
    top = number * BAR_STEP
    return (
        f'<text class="name" x="0" y="{top + 14}">{escape(name)}</text>'
        f'<text class="value" x="{BAR_WIDTH}" y="{top + 14}" text-anchor="end">{value}</text>'
        f'<rect class="track" x="0" y="{top + 20}" width="{BAR_WIDTH}" height="{BAR_HEIGHT}" rx="2"/>'
        f'<rect class="{kind}" x="0" y="{top + 20}" width="{BAR_WIDTH * part:.1f}" height="{BAR_HEIGHT}" rx="2"/>'
    )


def histogram(columns: Mapping[str, tuple[int, str]], label: str) -> Markup:
    """One column a bin, from zero. At least one count that is not 0.

    Args:
        columns: by what stands below the column, its count and what is said of it where a pointer rests.
    """
    highest = max(count for count, _ in columns.values())
    room = CURVE_HEIGHT - TOP - BOTTOM
    step = (CURVE_WIDTH - LEFT - RIGHT) / len(columns)
    drawn = []
    for count in (highest, highest // 2):
        y = TOP + room * (1 - count / highest)
        drawn.append(
            f'<line class="grid" x1="{LEFT}" x2="{CURVE_WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="axis" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{count:,}</text>'
        )
    # Every so many columns have words below them, so that these stay apart.
    every = -(-len(columns) * LABEL_WIDTH // (CURVE_WIDTH - LEFT - RIGHT))
    for number, (name, (count, told)) in enumerate(columns.items()):
        x, height = LEFT + number * step, room * count / highest
        drawn.append(
            f'<rect class="stressed" x="{x + step * 0.08:.1f}" y="{TOP + room - height:.1f}" width="{step * 0.84:.1f}" '
            f'height="{height:.1f}"><title>{escape(told)}</title></rect>'
        )
        if number % every == 0:
            drawn.append(
                f'<text class="axis" x="{x + step / 2:.1f}" y="{CURVE_HEIGHT - 8}" text-anchor="middle">{escape(name)}</text>'
            )
    return _svg(CURVE_WIDTH, CURVE_HEIGHT, label, "".join(drawn))


def lineage(nodes: Sequence[Node]) -> Markup:
    """Boxes from left (sources) to right (results), a line from every parent that is drawn to its child."""
    columns = _columns(nodes)
    places: dict[str, tuple[int, int]] = {}
    filled: dict[int, int] = {}
    for node in nodes:
        column = columns[node.identity]
        places[node.identity] = (column * COLUMN_STEP, ARCH_ROOM + filled.get(column, 0) * ROW_STEP)
        filled[column] = filled.get(column, 0) + 1
    edges, boxes = [], []
    for node in nodes:
        x, y = places[node.identity]
        for parent in node.parents:
            if parent in places:
                edges.append(_edge(places[parent], (x, y)))
        boxes.append(
            f'<rect class="node" x="{x + 1}" y="{y + 1}" width="{NODE_WIDTH}" height="{NODE_HEIGHT}" rx="6"/>'
            f'<text class="name" x="{x + 13}" y="{y + 20}">{escape(node.name)}</text>'
            f'<text class="axis" x="{x + 13}" y="{y + 37}">{escape(node.note)}</text>'
        )
    width = max(columns.values(), default=0) * COLUMN_STEP + NODE_WIDTH + 2
    height = (max(filled.values(), default=1) - 1) * ROW_STEP + NODE_HEIGHT + ARCH_ROOM + 2
    return _svg(width, height, "lineage of the evaluated models", "".join(edges + boxes))


def _columns(nodes: Sequence[Node]) -> dict[str, int]:
    """The longest way from a node without parents."""
    by_identity = {node.identity: node for node in nodes}
    columns: dict[str, int] = {}

    def column(identity: str) -> int:
        if identity not in columns:
            parents = [parent for parent in by_identity[identity].parents if parent in by_identity]
            columns[identity] = max((column(parent) + 1 for parent in parents), default=0)
        return columns[identity]

    for node in nodes:
        column(node.identity)
    return columns


def _edge(parent: tuple[int, int], child: tuple[int, int]) -> str:
    x1, y1 = parent[0] + NODE_WIDTH + 1, parent[1] + NODE_HEIGHT / 2
    x2, y2 = child[0] + 1, child[1] + NODE_HEIGHT / 2
    if x2 - x1 > COLUMN_STEP:
        return f'<path class="edge" d="M{x1} {y1} C{x1 + ARCH} {y1 - ARCH} {x2 - ARCH} {y2 - ARCH} {x2} {y2}"/>'
    bend = (x2 - x1) / 2
    return f'<path class="edge" d="M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"/>'


def _svg(width: float, height: float, label: str, content: str) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" aria-label="{escape(label)}">{content}</svg>'
    )
