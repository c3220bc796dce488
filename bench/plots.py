#!/usr/bin/env python3
"""Draws the plots of the benchmark page from the tables of that page.

    plots.py PAGE.md FOLDER

The tables are the only input, so the plots always agree with them. The output is
deterministic: text becomes outlines, and no date is written.
"""

import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

OURS, PEER, MODULE, INK, FAINT, GRID = (
    "#2554db", "#a4aebe", "#c99e62", "#182030", "#636e80", "#dee3eb")
REPLACED_LEASE_MS = 600_000
plt.rcParams.update({
    "svg.hashsalt": "gpulock", "font.size": 16, "text.color": INK, "xtick.color": FAINT,
    "axes.labelcolor": FAINT, "axes.edgecolor": GRID, "grid.color": GRID,
    "axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False,
})


def text(cell):
    """The median of a cell such as `1.27 (1.20 to 1.30)`, as the page writes it."""
    return cell.split(" (")[0]


def median(cell):
    return float(text(cell).replace(",", ""))


def highest(cell):
    return median(re.split(r" to |\(", cell)[-1].strip(")"))


def read_tables(page, block):
    """The tables of a block, each as {server: {row: {column: cell}}} without empty cells."""
    servers = re.search(r"<!-- bench: head -->\s*\|(.*)\|\n", page)[1].split("|")[1:]
    content = re.search(rf"<!-- bench: {block} -->\n(.*?)<!-- end -->", page, re.S)[1]
    tables = []
    for lines in re.findall(r"(?:^\|.*\n)+", content, re.M):
        lines = [[cell.strip() for cell in line.strip("|").split("|")]
                 for line in lines.splitlines()]
        (_, *columns), _, *rows = lines
        columns = [re.sub(r"^[A-Z]\w+ [\d.]+: ", "", column) for column in columns]
        table, width = {}, len(columns) // len(servers)
        for index, server in enumerate(servers):
            part = slice(index * width, (index + 1) * width)
            cells = {label: {column: cell for column, cell in zip(columns[part], cells[part])
                             if cell != "–"} for label, *cells in rows}
            table[server.strip()] = {label: row for label, row in cells.items() if row}
        tables.append({server: rows for server, rows in table.items() if rows})
    return tables


def select(table, column, ours):
    return [row[column] for rows in table.values() for label, row in rows.items()
            if is_ours(label) == ours]


def span(cells):
    """`1.19 to 1.27`: the lowest and the highest median, as the page writes them."""
    if not cells:
        return "–"
    low, *_, high = sorted([*cells, *cells], key=median)
    return text(low) if text(low) == text(high) else f"{text(low)} to {text(high)}"


def is_ours(label):
    return label.startswith("GPULOCK")


def color(label):
    return OURS if is_ours(label) else PEER


def note(ax, label, words, point, offset, **look):
    look |= {"color": OURS, "weight": "bold"} if is_ours(label) else {}
    ax.annotate(words, point, offset, textcoords="offset points", annotation_clip=False, **look)


def write_title(figure, lines):
    for index, line in enumerate(lines):
        look = {"size": 22, "weight": "bold"} if index < 2 else {"color": FAINT}
        figure.text(0.04, 1 - (0.7 + 0.45 * index) / figure.get_figheight(), line, **look)


def panels(lines, table, lanes=(1,), left=0.31, right=0.8):
    """Yields the rows and the axes of each server: one of each relative width in `lanes`."""
    heights = [len(rows) for rows in table.values()]
    height = 1.9 + sum(0.42 * rows + 1.1 for rows in heights)
    figure, grid = plt.subplots(
        len(table), len(lanes), figsize=(12, height), squeeze=False,
        gridspec_kw={"height_ratios": heights, "width_ratios": lanes, "wspace": 0.4,
                     "hspace": 1.1 * len(heights) / (0.42 * sum(heights))})
    figure.subplots_adjust(left=left, right=right, top=1 - 2.3 / height, bottom=0.7 / height)
    write_title(figure, lines)
    for (server, rows), line in zip(table.items(), grid):
        for ax in line:
            ax.set(ylim=(len(rows) - 0.5, -0.5), xticks=[], yticks=[])
        line[0].set_title(server, loc="left", size=16, weight="bold")
        line[0].set_yticks(range(len(rows)), rows)
        line[0].tick_params(axis="y", length=0)
        for tick in line[0].get_yticklabels():
            tick.set(**{"color": OURS, "weight": "bold"} if is_ours(tick.get_text()) else {})
        yield rows, line


def draw_bars(ax, rows, values, notes):
    for y, (label, value, words) in enumerate(zip(rows, values, notes)):
        ax.barh(y, value, height=0.7, color=color(label))
        note(ax, label, words, (value, y), (9, 0), va="center")


def log_axis(ax, ticks, label):
    ax.set(xscale="log", xlim=(ticks[0], ticks[-1]))
    ax.set_xticks(ticks, map(label, ticks))
    ax.minorticks_off()


def duration(ms):
    return f"{ms:,g} ms" if ms < 1000 else f"{ms / 1000:,g} s"


def draw_pair(table):
    table = {server: {label: row for label, row in rows.items()
                      if "× native" in row and label not in ("PING, PING", "GET, GET")}
             for server, rows in table.items()}
    if not any(table.values()):
        return
    of = lambda label: span([rows[label]["× native"] for rows in table.values()])
    lines = (f"Acquire and release: GPULOCK costs {of('GPULOCK, events off')} times",
             f"the native pair, the Lua pair {of('EVALSHA, EVALSHA')} times",
             "Instructions for both commands, relative to the native pair; lower is better")
    limit = max(select(table, "× native", False), key=median)
    for rows, (ax,) in panels(lines, table):
        draw_bars(ax, rows, [median(row["× native"]) for row in rows.values()],
                  [f"{row['× native']} × ({text(row['instructions'])})" for row in rows.values()])
        ax.set_xlim(0, median(limit))
        ax.axvline(1, color=FAINT)
        ax.set_xticks([1], ["native"])


def draw_hand_off(gaps, *_):
    lines = (f"A hand-off takes {span(select(gaps, 'p50, ms', True))} ms with GPULOCK,",
             f"{span(select(gaps, 'p50, ms', False))} ms with the others",
             "Time from release to the next grant, ms: dot is the median, ring is p99; left is better")
    for rows, (ax,) in panels(lines, gaps, left=0.36, right=0.93):
        log_axis(ax, [0.1, 1, 10], "{:g}".format)
        for y, (label, row) in enumerate(rows.items()):
            p50, p99 = row["p50, ms"], row["p99, ms"]
            ax.plot([median(p50), median(p99)], [y, y], color=color(label), lw=4, zorder=1)
            for cell, fill, dx, side in ((p50, color(label), -14, "right"), (p99, "white", 14, "left")):
                ax.scatter(median(cell), y, 180, color=fill, edgecolors=color(label), lw=3, zorder=2)
                note(ax, label, text(cell), (median(cell), y), (dx, 0), va="center", ha=side)


def draw_fairness(_gap, _cost, table):
    wait = "longest wait, hand-offs"
    longest = [max(map(highest, select(table, wait, ours)), default=0) for ours in (True, False)]
    lines = (f"Of eight workers, none waits for more than {longest[0]:,.0f} hand-offs",
             f"with GPULOCK, and one for up to {longest[1]:,.0f} with the others",
             "Longest wait of any worker in any round, and how evenly the lock is shared")
    for rows, (left, right) in panels(lines, table, lanes=(3, 2), right=0.92):
        waits = [highest(row[wait]) for row in rows.values()]
        draw_bars(left, rows, waits, [f"{value:,.0f}" for value in waits])
        draw_bars(right, rows, [median(row["Jain"]) for row in rows.values()],
                  [text(row["Jain"]) for row in rows.values()])
        left.set(xlim=(0, max(longest)), xlabel="hand-offs waited (lower is better)")
        right.set(xlim=(0, 1), xlabel="Jain's index (1: equal)")


def draw_queue(cost, growth):
    of = lambda label: span([rows[label]["server CPU"] for rows in growth.values() if label in rows])
    native, block_only = "SET NX PX, DEL", "a module that only blocks"
    figure, grid = plt.subplots(1, len(cost), figsize=(12, 7.4), sharey=True, squeeze=False)
    figure.subplots_adjust(left=0.07, right=0.95, top=0.58, bottom=0.08)
    write_title(figure, (f"With 10,000 waiters a hand-off costs {of('GPULOCK')} times",
                         f"what it costs with 10; SET and DEL {of(native)} times",
                         "Server CPU for a hand-off, us, by number of waiters; lower is better"))
    for (server, rows), ax in zip(cost.items(), grid[0]):
        ax.set_title(server, loc="left", size=16, weight="bold", pad=24)
        for label, look in (("GPULOCK", OURS), (block_only, MODULE), (native, PEER)):
            points = [(median(count), row[label]) for count, row in rows.items() if label in row]
            ax.plot([count for count, _ in points], [median(cell) for _, cell in points],
                    color=look, lw=4, marker="o", ms=11, label=label, clip_on=False)
            for count, cell in points if is_ours(label) else points[-1:]:
                note(ax, label, text(cell), (count, median(cell)),
                     (0, 14 if is_ours(label) else -24), ha="center")
        log_axis(ax, [median(count) for count in rows], "{:,g}".format)
        ax.set_ylim(bottom=0)
        ax.tick_params(length=0, labelcolor=FAINT, pad=12)
        ax.grid()
    figure.legend(*ax.get_legend_handles_labels(), loc="upper left", ncols=3, frameon=False,
                  bbox_to_anchor=(0.03, 0.76))


def draw_recovery(table):
    p99 = max(median(rows["SESSION"]["p99, ms"]) for rows in table.values())
    lines = ("After a kill of the holder, the next waiter gets the lock",
             f"within {p99:g} ms in 99 of 100 cases, with SESSION",
             "Time from the kill to the next grant; the replaced lock manager was not measured")
    replaced = {"p50, ms": f"{REPLACED_LEASE_MS}"}
    for rows in table.values():
        for label in list(rows):
            rows[f"GPULOCK, {label}"] = rows.pop(label)
        rows["replaced lock manager"] = replaced
    for rows, (ax,) in panels(lines, table):
        log_axis(ax, [0.1, 10, 1e3, 1e5, 1e6], duration)
        draw_bars(ax, rows, [median(row["p50, ms"]) for row in rows.values()],
                  [f"up to {duration(REPLACED_LEASE_MS)}, its lease" if row is replaced else
                   f"{duration(median(row['p50, ms']))} (p99 {duration(median(row['p99, ms']))})"
                   for row in rows.values()])


PLOTS = {"pair": ("pair", draw_pair), "hand-off": ("hand-off", draw_hand_off),
         "fairness": ("hand-off", draw_fairness), "queue": ("queue", draw_queue),
         "recovery": ("recovery", draw_recovery)}


def main():
    page, folder = Path(sys.argv[1]).read_text(encoding="utf-8"), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (block, draw) in PLOTS.items():
        tables = read_tables(page, block)
        if tables:
            draw(*tables)
        if not plt.get_fignums():
            print(f"plots.py: no plot {name}: not measured", file=sys.stderr)
            continue
        plt.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close()


if __name__ == "__main__":
    main()
