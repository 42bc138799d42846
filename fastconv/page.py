"""The HTML page around a drawing: pan, zoom, search, and the facts of the box under the pointer."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

STYLE = """
html,body{margin:0;height:100%;overflow:hidden;background:#fff;color:#1d2733;
font:13px system-ui,'Segoe UI','Helvetica Neue',Arial,sans-serif}
#view{position:absolute;inset:0;overflow:hidden;cursor:grab;touch-action:none}
#view.moving{cursor:grabbing}
#view svg{display:block;width:100%;height:100%}
#bar{position:absolute;left:12px;bottom:12px;display:flex;gap:6px;align-items:center;
background:#fff;border:1px solid #c9d1db;border-radius:8px;padding:6px 8px;
box-shadow:0 1px 4px #0002}
#bar button{font:inherit;min-width:30px;padding:3px 8px;border:1px solid #c9d1db;border-radius:5px;
background:#f5f7fa;cursor:pointer}
#bar input{font:inherit;width:190px;padding:3px 6px;border:1px solid #c9d1db;border-radius:5px}
#found{min-width:52px;color:#5b6776}
#facts{position:absolute;right:12px;top:12px;width:340px;max-height:calc(100% - 40px);
overflow:auto;background:#fffffff2;border:1px solid #c9d1db;border-radius:8px;padding:8px 10px;
box-shadow:0 1px 6px #0003;display:none}
#facts table{border-collapse:collapse;width:100%}
#facts td{vertical-align:top;padding:2px 4px;overflow-wrap:anywhere}
#facts td:first-child{color:#5b6776;white-space:nowrap;padding-right:10px}
.box{cursor:pointer}
.box.on>rect:nth-of-type(2),.box.on>rect:only-of-type{stroke:#1769e0;stroke-width:3}
.wire.on{stroke:#1769e0;stroke-width:2.4}
.dim .wire:not(.on){opacity:.35}
"""

SCRIPT = """
"use strict";
const view = document.getElementById("view"), svg = view.querySelector("svg");
const data = JSON.parse(document.getElementById("data").textContent);
const panel = document.getElementById("facts"), found = document.getElementById("found");
const full = svg.viewBox.baseVal, W = full.width, H = full.height;
svg.querySelectorAll(".box > title").forEach(t => t.remove());
const boxes = [...svg.querySelectorAll(".box")], wires = [...svg.querySelectorAll(".wire")];
let x = 0, y = 0, scale = 1, pinned = null;
function show() {
  const r = view.getBoundingClientRect();
  svg.setAttribute("viewBox", [x, y, r.width / scale, r.height / scale].join(" "));
  svg.setAttribute("preserveAspectRatio", "xMinYMin slice");
}
function zoom(factor, px, py) {
  const r = view.getBoundingClientRect();
  px = px === undefined ? r.width / 2 : px; py = py === undefined ? r.height / 2 : py;
  const next = Math.min(6, Math.max(0.02, scale * factor));
  x += px / scale - px / next; y += py / scale - py / next; scale = next; show();
}
function home(all) {
  const r = view.getBoundingClientRect();
  scale = Math.min(1.25, r.width / W, all ? r.height / H : 9);
  if (!all) scale = Math.max(scale, Math.min(1, 0.5));
  x = (W - r.width / scale) / 2; y = all ? (H - r.height / scale) / 2 : 0; show();
}
view.addEventListener("wheel", e => {
  e.preventDefault();
  const r = view.getBoundingClientRect();
  const unit = e.deltaMode === 1 ? 16 : 1;
  if (e.shiftKey) { x += (e.deltaY + e.deltaX) * unit / scale; show(); }
  else zoom(Math.exp(-e.deltaY * unit * 0.0015), e.clientX - r.left, e.clientY - r.top);
}, {passive: false});
const fingers = new Map();
let moved = 0;
view.addEventListener("pointerdown", e => { fingers.set(e.pointerId, e); moved = 0; });
window.addEventListener("pointermove", e => {
  const last = fingers.get(e.pointerId);
  if (!last) return;
  const others = [...fingers.values()].filter(f => f.pointerId !== e.pointerId);
  if (others.length) {
    const o = others[0], r = view.getBoundingClientRect();
    const before = Math.hypot(last.clientX - o.clientX, last.clientY - o.clientY);
    const after = Math.hypot(e.clientX - o.clientX, e.clientY - o.clientY);
    if (before > 0) zoom(after / before, (e.clientX + o.clientX) / 2 - r.left,
                         (e.clientY + o.clientY) / 2 - r.top);
  } else {
    x -= (e.clientX - last.clientX) / scale; y -= (e.clientY - last.clientY) / scale; show();
  }
  moved += Math.abs(e.clientX - last.clientX) + Math.abs(e.clientY - last.clientY);
  view.classList.add("moving"); fingers.set(e.pointerId, e);
});
for (const name of ["pointerup", "pointercancel"])
  window.addEventListener(name, e => {
    fingers.delete(e.pointerId); view.classList.remove("moving");
  });
function facts(k) {
  boxes.forEach((b, i) => b.classList.toggle("on", i === k));
  wires.forEach(w => w.classList.toggle("on",
    k !== null && (Number(w.dataset.tail) === k || Number(w.dataset.head) === k)));
  svg.classList.toggle("dim", k !== null);
  panel.style.display = k === null ? "none" : "block";
  panel.replaceChildren();
  if (k === null) return;
  const table = panel.appendChild(document.createElement("table"));
  for (const [what, value] of data.facts[k]) {
    const row = table.insertRow();
    row.insertCell().textContent = what;
    row.insertCell().textContent = value;
  }
}
boxes.forEach((b, k) => {
  b.addEventListener("pointerenter", () => { if (pinned === null && !fingers.size) facts(k); });
  b.addEventListener("pointerleave", () => { if (pinned === null) facts(null); });
  b.addEventListener("click", e => {
    if (moved > 4) return;
    e.stopPropagation(); pinned = pinned === k ? null : k; facts(k);
  });
});
view.addEventListener("click", () => { if (moved <= 4) { pinned = null; facts(null); } });
function centre(k) {
  const b = boxes[k].getBBox(), m = boxes[k].parentNode.transform.baseVal.consolidate().matrix;
  const r = view.getBoundingClientRect();
  scale = Math.max(scale, 0.9);
  x = b.x + m.e + b.width / 2 - r.width / scale / 2;
  y = b.y + m.f + b.height / 2 - r.height / scale / 2;
  pinned = k; facts(k); show();
}
const input = document.getElementById("search");
let hits = [], at = -1;
function seek(step) {
  if (!hits.length) return;
  at = (at + step + hits.length) % hits.length;
  found.textContent = (at + 1) + " of " + hits.length; centre(hits[at]);
}
input.addEventListener("input", () => {
  const words = input.value.toLowerCase().trim();
  hits = words ? data.search.flatMap((s, k) => s.includes(words) ? [k] : []) : [];
  at = -1; found.textContent = words ? hits.length + " found" : "";
});
input.addEventListener("keydown", e => { if (e.key === "Enter") seek(e.shiftKey ? -1 : 1); });
document.getElementById("plus").addEventListener("click", () => zoom(1.25));
document.getElementById("minus").addEventListener("click", () => zoom(0.8));
document.getElementById("all").addEventListener("click", () => home(true));
document.getElementById("top").addEventListener("click", () => home(false));
window.addEventListener("keydown", e => {
  if (e.target === input) return;
  const step = 80 / scale;
  const keys = {"+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8),
    "0": () => home(true), "Escape": () => { pinned = null; facts(null); },
    "ArrowLeft": () => { x -= step; show(); }, "ArrowRight": () => { x += step; show(); },
    "ArrowUp": () => { y -= step; show(); }, "ArrowDown": () => { y += step; show(); }};
  if (keys[e.key]) { keys[e.key](); e.preventDefault(); }
});
window.addEventListener("resize", show);
home(false);
"""


def page(
    title: str, svg: str, facts: Sequence[Sequence[Sequence[str]]], search: Sequence[str]
) -> str:
    """The whole page.

    Args:
        title: escaped.
        svg: the drawing, whose elements of class ``box`` are numbered by ``data-box``.
        facts: for every box, rows of (what, value).
        search: for every box, the lower-case text in which the search box looks.
    """
    # Inside a script element only "<" could end it; as an escape of JSON it cannot.
    data = json.dumps({"facts": facts, "search": search}, ensure_ascii=True).replace("<", "\\u003c")
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; "
        f"script-src {_hash(SCRIPT)}; base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE}</style></head><body>
<div id="view">{svg}</div>
<div id="facts"></div>
<div id="bar"><button id="plus" title="zoom in (+)">+</button>
<button id="minus" title="zoom out (-)">−</button>
<button id="all" title="everything (0)">all</button>
<button id="top" title="the beginning">top</button>
<input id="search" placeholder="find a layer" aria-label="find a layer">
<span id="found"></span></div>
<script type="application/json" id="data">{data}</script>
<script>{SCRIPT}</script></body></html>
"""


def _hash(script: str) -> str:
    """What a content security policy names an inline script by."""
    digest: Any = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


__all__ = ["page"]
