"""The look of the report: one column, the reader's own light or dark, nothing loaded from anywhere."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #5d6673; --paper: #fbfbf9; --card: #ffffff; --edge: #dfe2e6;
  --good: #1f7a4d; --bad: #b3372e; --open: #6b7684; --line: #2b63b8; --band: #2b63b81f; --tint: #f1f3f5;
  --warn: #a8690a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #98a2af; --paper: #14171b; --card: #1b1f25;
  --edge: #2f353d; --good: #5cc792; --bad: #f08a80; --open: #93a0b0; --line: #7fb0f5; --band: #7fb0f52b;
  --tint: #23282f; --warn: #e0a84e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Ubuntu, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .35rem; }
h3 { font-size: .95rem; margin: 1.1rem 0 .4rem; }
p { margin: .35rem 0; }
header p, .note, .quiet { color: var(--soft); overflow-wrap: anywhere; }
.note { font-size: .9rem; max-width: 46rem; margin-bottom: .8rem; }
section { margin-top: 2.4rem; }
.verdict { border-left: 4px solid var(--open); background: var(--card); padding: .9rem 1.1rem; margin: 1.2rem 0;
  border-radius: 0 .5rem .5rem 0; }
.verdict.good { border-color: var(--good); } .verdict.bad { border-color: var(--bad); }
.verdict strong { font-size: 1.15rem; display: block; }
.tiles { display: grid; grid-template-columns: repeat(6, 1fr); gap: .7rem; margin: 1rem 0; }
.tile { background: var(--card); border: 1px solid var(--edge); border-radius: .5rem; padding: .65rem .85rem; }
.tile b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; line-height: 1.3; }
.tile span { color: var(--soft); font-size: .82rem; display: block; }
.card { background: var(--card); border: 1px solid var(--edge); border-radius: .5rem; padding: .9rem 1rem; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--edge); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .45rem .8rem; text-align: left; vertical-align: top; border-top: 1px solid var(--edge); }
thead th { border-top: 0; color: var(--soft); font-weight: 600; font-size: .82rem; white-space: nowrap; }
td { overflow-wrap: anywhere; } td:first-child { min-width: 7rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.total td { font-weight: 650; }
.entry { display: grid; grid-template-columns: 3.2rem 1fr 9rem 10.5rem; gap: .2rem .9rem; align-items: center;
  padding: .55rem 0; border-top: 1px solid var(--edge); }
.entry:first-child { border-top: 0; }
.entry .words { overflow-wrap: anywhere; white-space: pre-wrap; }
.entry .figure { font-size: .82rem; color: var(--soft); font-variant-numeric: tabular-nums; line-height: 1.35; }
.id { font: 600 .82rem ui-monospace, Menlo, Consolas, monospace; color: var(--soft); overflow-wrap: anywhere; }
.good-text { color: var(--good); } .bad-text { color: var(--bad); }
details { border: 1px solid var(--edge); border-radius: .5rem; background: var(--card); margin: .45rem 0; }
summary { cursor: pointer; padding: .5rem .9rem; overflow-wrap: anywhere; }
details > :not(summary) { margin: 0 .9rem .8rem; } details > .scroll { border-radius: .3rem; }
.edit { padding: .45rem 0; border-top: 1px solid var(--edge); overflow-wrap: anywhere; }
.op { font-weight: 650; } .op.add, .op.accept { color: var(--good); } .op.drop { color: var(--bad); }
.op.revise { color: var(--line); }
pre { background: var(--tint); padding: .7rem .85rem; border-radius: .4rem; white-space: pre-wrap;
  margin: .3rem 0 .7rem; overflow-wrap: anywhere; font: .85rem/1.45 ui-monospace, Menlo, Consolas, monospace;
  max-height: 28rem; overflow: auto; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem; } .pair > * { min-width: 0; }
svg.chart { width: 100%; height: auto; display: block; } svg.effect { width: 9rem; height: 1.5rem; }
svg text { fill: var(--soft); font-size: 13px; } svg .middle { text-anchor: middle; } svg .end { text-anchor: end; }
.grid { stroke: var(--edge); } .axis { stroke: var(--soft); } .span { stroke-width: 3; stroke-linecap: round; }
.span.wide { stroke-width: 7; opacity: .45; } .span.good { stroke: var(--good); } .span.bad { stroke: var(--bad); }
.span.open { stroke: var(--open); } .span.after { stroke: var(--line); } .dot.after { fill: var(--line); }
 .dot.good { fill: var(--good); } .dot.bad { fill: var(--bad); }
.dot.open { fill: var(--open); } .dot.line-dot { fill: var(--line); } .line { fill: none; stroke: var(--line);
  stroke-width: 2; } .band { fill: var(--band); }
.curves { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .7rem; }
.curves + details { margin-top: .7rem; } .curve p { margin: 0; font-size: .82rem; line-height: 1.35; }
.curve p:first-child { display: flex; justify-content: space-between; gap: .6rem; flex-wrap: wrap; font-size: .9rem; }
.curve span { font-variant-numeric: tabular-nums; } .curve { padding: .65rem .8rem; }
svg.small text { font-size: 12px; } .mark { stroke: var(--warn); stroke-width: 1.5; stroke-dasharray: 4 3; }
.span.test { stroke: var(--good); } .dot.test { fill: var(--good); }
.verdict.alarm { border-color: var(--warn); } .verdict.alarm strong { font-size: 1rem; }
.tint0 { fill: var(--line); background: var(--line); } .tint1 { fill: var(--good); background: var(--good); }
.tint2 { fill: var(--warn); background: var(--warn); } .tint3 { fill: var(--open); background: var(--open); }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; }
.said { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 14rem; }
details details { background: var(--paper); }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
.measured > .scroll { margin-top: .6rem; }
@media (max-width: 900px) { .tiles { grid-template-columns: repeat(3, 1fr); }
  .curves { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (max-width: 640px) { main { padding: 1.2rem .9rem 3rem; } .entry { grid-template-columns: 3.2rem 1fr; }
  .entry > :nth-child(n+3) { grid-column: 2; } .pair { grid-template-columns: 1fr; } svg text { font-size: 22px; }
  .tiles { grid-template-columns: 1fr 1fr; } .curves { grid-template-columns: 1fr; }
  svg.small text { font-size: 13px; } }
@media print { details { break-inside: avoid; } body { background: #fff; } }
"""
