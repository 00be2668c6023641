"""Draw results as SVG: one picture for HTTP/1.1, one for HTTP/2.

Small multiples: one panel per work, one bar per contender, all starting at zero, shorter is better. Every colour is chosen to stand on
white and on black alike: an image cannot know on which of them it is shown.
"""

from __future__ import annotations

from html import escape
from typing import Any

ORDER = ("mcpproxy", "nginx", "haproxy")
COLOURS = {"mcpproxy": "#2f81f7", "nginx": "#3fa45b", "haproxy": "#b08030"}
HTTP1 = (  # work, figure, title, unit; no latency: on a machine that others use, its p99 is the scheduler's
    ("post_tls", "cpu_us", "tools/call over TLS: CPU per request", "µs"),
    ("post_plain", "cpu_us", "tools/call without TLS: CPU per request", "µs"),
    ("guard_tls", "cpu_us", "the same over TLS with API key, rate limit, security headers", "µs"),
    ("guard_tools", "cpu_us", "and with tool rules and audit log (peers: as above)", "µs"),
    ("sse_idle", "rss_kib", "an idle TLS event stream: memory", "KiB"),
    ("sse_events", "cpu_us", "an event on one of 2 000 streams: CPU", "µs"),
    ("idle_neighbours", "cpu_us", "CPU per request beside 5 000 idle streams", "µs"),
    ("big_bodies", "down_us_mib", "1 GiB download over TLS: CPU per MiB", "µs"),
    ("big_bodies", "up_us_mib", "1 GiB upload over TLS: CPU per MiB", "µs"),
    ("misses", "cpu_us", "every head new: CPU per request", "µs"),
    ("handshakes", "full_us", "new TLS connection with one call: CPU", "µs"),
)
HTTP2 = (
    ("h2_16x8", "cpu_us", "HTTP/2 call, 16 connections × 8 at a time: CPU", "µs"),
    ("h2_64x1", "cpu_us", "HTTP/2 call, 64 connections × 1 at a time: CPU", "µs"),
    ("h2_1x100", "cpu_us", "HTTP/2 call, 1 connection × 100 at a time: CPU", "µs"),
    ("h2_download", "cpu_us_mib", "HTTP/2, 100 MiB download: CPU per MiB", "µs"),
    ("h2_sse_idle", "rss_kib", "HTTP/2, an idle event stream: memory", "KiB"),
    ("h2_sse_events", "cpu_us", "HTTP/2, an event on one of 2 000 streams: CPU", "µs"),
)
PANELS = HTTP1 + HTTP2
CHARTS = {  # file -> heading, panels
    "chart.svg": ("mcpproxy beside nginx and HAProxy on one core: shorter is better", HTTP1),
    "chart-h2.svg": ("The same over HTTP/2: shorter is better", HTTP2),
}
WIDTH, COLUMNS, PANEL_HEIGHT, BAR, TOP = 860, 2, 104, 16, 34
NAMES, NUMBERS = 74, 66  # room left of the bars for names, right of them for numbers
STYLE = "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#6e7781}.t{font-weight:600}"  # a grey that reads on both


def charts(reports: dict[str, dict[str, Any]]) -> dict[str, str]:
    """File -> SVG of each chart there are results for."""
    found = {}
    for name, (heading, panels) in CHARTS.items():
        if drawn := [panel for panel in panels if panel[0] in reports]:
            found[name] = svg(reports, heading, drawn)
    return found


def svg(reports: dict[str, dict[str, Any]], heading: str, panels: list[tuple[str, str, str, str]]) -> str:
    rows = (len(panels) + COLUMNS - 1) // COLUMNS
    height = TOP + rows * PANEL_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        f"<title>{escape(heading)}</title><style>{STYLE}</style>",
        f'<text class="t" x="8" y="18">{escape(heading)}</text>',
    ]
    for number, (work, figure, title, unit) in enumerate(panels):
        left, top = number % COLUMNS * (WIDTH // COLUMNS) + 8, TOP + number // COLUMNS * PANEL_HEIGHT
        parts += _panel(
            left, top, WIDTH // COLUMNS - 24, f"{title} ({unit})", {name: one[figure] for name, one in reports[work]["figures"].items()}
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(left: int, top: int, width: int, title: str, values: dict[str, float]) -> list[str]:
    longest = max([*values.values(), 1e-9])
    parts = [f'<text class="t" x="{left}" y="{top + 14}">{escape(title)}</text>']
    for line, name in enumerate(name for name in ORDER if name in values):
        y = top + 24 + line * (BAR + 6)
        length = max(1.0, (width - NAMES - NUMBERS) * max(values[name], 0) / longest)
        parts.append(f'<text x="{left}" y="{y + 12}">{name}</text>')
        parts.append(f'<rect x="{left + NAMES}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{left + NAMES + length + 6:.1f}" y="{y + 12}">{readable(values[name])}</text>')
    return parts


def readable(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"
