"""What scripts/bench measured, as one table: in Markdown, as JSON and as a drawing (SVG). No library is needed."""

import json
import os
import platform
import time
from xml.sax.saxutils import escape

# Label, key of the measure, unit, factor from the measure to the unit, whether more is better.
ROWS = (
    ("download, 1 session", "RETR, 1 session, MiB/s", "GiB/s", 1 / 1024, True),
    ("download, 1 session: CPU time", "RETR, 1 session, CPU s/GiB", "s/GiB", 1, False),
    ("download, 4 sessions", "RETR, 4 sessions, MiB/s", "GiB/s", 1 / 1024, True),
    ("download, 4 sessions: CPU time", "RETR, 4 sessions, CPU s/GiB", "s/GiB", 1, False),
    ("upload to memory", "STOR, 1 session, MiB/s", "GiB/s", 1 / 1024, True),
    ("upload to memory: CPU time", "STOR, 1 session, CPU s/GiB", "s/GiB", 1, False),
    ("upload to a disk, flushed", "durable = true, one file, MiB/s", "MiB/s", 1, True),
    ("download over TLS", "RETR, TLS, 1 session, MiB/s", "GiB/s", 1 / 1024, True),
    ("download over TLS: CPU time", "RETR, TLS, 1 session, CPU s/GiB", "s/GiB", 1, False),
    ("upload over TLS", "STOR, TLS, 1 session, MiB/s", "GiB/s", 1 / 1024, True),
    ("upload over TLS: CPU time", "STOR, TLS, 1 session, CPU s/GiB", "s/GiB", 1, False),
    ("download files of 4 KiB", "RETR 4 KiB, files/s", "files/s", 1, True),
    ("upload files of 4 KiB, flushed", "durable = true, 4 KiB files, files/s", "files/s", 1, True),
    ("upload files of 4 KiB, not flushed", "durable = false, 4 KiB files, files/s", "files/s", 1, True),
    ("logins, 1 client", "sessions per second", "1/s", 1, True),
    ("logins, 8 clients", "sessions per second, 8 clients", "1/s", 1, True),
    ("LIST of 10,000 files", "LIST 10000, 1/s", "1/s", 1, True),
    ("MLSD of 10,000 files", "MLSD 10000, 1/s", "1/s", 1, True),
    ("NOOP, 99 of 100 within", "NOOP p99, us", "µs", 1, False),
    ("start, user on the command line", "start with --user, ms", "ms", 1, False),
    ("start, configuration file", "start with a file, ms", "ms", 1, False),
    ("memory without a session (RSS)", "RSS with no session, KiB", "MiB", 1 / 1024, False),
    ("the program's file", "size of the binary, KiB", "MiB", 1 / 1024, False),
)
OURS = "thriftpd"
COLOURS = {"thriftpd": "#2563eb", "vsftpd": "#94a3b8", "proftpd": "#b8a27e", "pure-ftpd": "#86a38b"}


def number(value):
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def compared(medians, servers):
    """Rows of what was measured: label, unit, whether more is better, {server: value}, ratio to the best peer."""
    rows = []
    for label, key, unit, factor, more in ROWS:
        found = {name: medians[key][name] * factor for name in servers if name in medians.get(key, {})}
        if OURS not in found:
            continue
        peers = [value for name, value in found.items() if name != OURS]
        best = (max(peers) if more else min(peers)) if peers else None
        ratio = found[OURS] / best if best else None
        rows.append({"label": label, "unit": unit, "more_is_better": more, "values": found, "ratio_to_best_peer": ratio})
    return rows


def machine():
    """The processor, how many of it, the kernel, the date."""
    name = "unknown processor"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            names = [line.partition(":")[2].strip() for line in info if line.startswith(("model name", "Model"))]
        name = names[0] if names else platform.machine()
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} CPUs, Linux {platform.release()}, {time.strftime('%Y-%m-%d')}"


def markdown(rows, servers, where):
    lines = [f"Measured on {where}. Medians; the ratio is that to the best of the others.", ""]
    lines.append("| | " + " | ".join(servers) + " | ratio |")
    lines.append("|---" * (len(servers) + 2) + "|")
    for row in rows:
        cells = [number(row["values"][name]) if name in row["values"] else "–" for name in servers]
        ratio = row["ratio_to_best_peer"]
        wish = "" if row["more_is_better"] else " (less is better)"
        label = f"{row['label']}, {row['unit']}{wish}"
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {f'{ratio:.2f}' if ratio else '–'} |")
    return "\n".join(lines) + "\n"


def svg(rows, servers, where):
    """Bars, each row to its own scale."""
    left, width, bar, gap = 250, 420, 9, 12
    parts, y = [], 64
    for row in rows:
        shown = [name for name in servers if name in row["values"]]
        most = max(row["values"].values()) or 1
        middle = y + len(shown) * bar / 2
        wish = "" if row["more_is_better"] else " ↓"
        parts.append(f'<text x="{left - 8}" y="{middle + 4:.0f}" text-anchor="end">{escape(row["label"])}{wish}</text>')
        for name in shown:
            value = row["values"][name]
            length = max(1, value / most * width)
            weight = ' font-weight="bold"' if name == OURS else ""
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 1}" fill="{COLOURS.get(name, "#999")}"/>')
            text = f"{number(value)} {row['unit']}"
            parts.append(f'<text x="{left + length + 5:.1f}" y="{y + bar - 1}" font-size="9"{weight}>{escape(text)}</text>')
            y += bar
        y += gap
    legend, x = [], left
    for name in servers:
        legend.append(f'<rect x="{x}" y="34" width="10" height="10" fill="{COLOURS.get(name, "#999")}"/>')
        legend.append(f'<text x="{x + 15}" y="43">{escape(name)}</text>')
        x += 100
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="780" height="{y + 8}" font-family="sans-serif" font-size="12" fill="#333">',
        f'<rect width="780" height="{y + 8}" fill="#fff"/>',
        f'<text x="{left}" y="18" font-size="11">{escape(where)} (↓: less is better)</text>',
    ]
    return "\n".join(head + legend + parts + ["</svg>"]) + "\n"


def write(options, medians, servers):
    """Writes the files that were asked for."""
    where = machine()
    rows = compared(medians, servers)
    for path, text in (
        (options.markdown, lambda: markdown(rows, servers, where)),
        (options.json, lambda: json.dumps({"machine": where, "rows": rows}, indent=1, ensure_ascii=False) + "\n"),
        (options.svg, lambda: svg(rows, servers, where)),
    ):
        if path:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text())
