"""How pages look: fonts of the system, one column on phones, light or dark as the reader has it."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #fff; --wash: #f6f8fa; --line: #d8dee4;
  --values: #3d7bc4; --places: #9ec3ea; --dense: #d5dce3; --yes: #1a7f37; --no: #9a6700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa5b1; --paper: #12161b; --wash: #1a2027; --line: #303842;
    --values: #4f8fd9; --places: #9cc0e8; --dense: #3a444f; --yes: #4ac26b; --no: #d4a72c; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 66rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; font-weight: 650; letter-spacing: -0.01em; }
h2 { margin: 3rem 0 0.25rem; font-size: 1.15rem; font-weight: 650; }
a { color: inherit; }
h1, .name { overflow-wrap: anywhere; }
p { margin: 0.25rem 0 1rem; max-width: 44rem; }
.soft, .kicker, caption, figcaption, footer { color: var(--soft); }
.kicker { margin: 0 0 0.25rem; font-size: 0.85rem; }
.name { font: 0.85rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 1rem 1.5rem;
  margin: 1.75rem 0 0; padding: 1rem 0; border-block: 1px solid var(--line); }
.facts dt { font-size: 0.85rem; color: var(--soft); }
.facts dd { margin: 0; font-size: 1.35rem; line-height: 1.3; font-weight: 600; }
.facts dd small { display: block; font-size: 0.85rem; font-weight: 400; color: var(--soft); }
table { width: 100%; border-collapse: collapse; font-size: 0.92rem; }
caption { text-align: left; padding-bottom: 0.4rem; font-size: 0.85rem; }
th, td { padding: 0.4rem 0 0.4rem 0.9rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
th { font-weight: 400; }
thead th { font-size: 0.85rem; color: var(--soft); white-space: nowrap; }
td { white-space: nowrap; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
td.text { white-space: normal; text-align: left; overflow-wrap: anywhere; }
table + table { margin-top: 1.5rem; }
.soft { font-weight: 400; }
tr.best th, tr.best td { font-weight: 600; }
.bar { display: flex; height: 0.5rem; margin-top: 0.3rem; min-width: 4rem; background: none; }
h2 + .bar { margin: 0.75rem 0; height: 0.75rem; }
.bar i { display: block; height: 100%; min-width: 0; }
i.v { background: var(--values); }
i.p { background: var(--places); }
i.d { background: var(--dense); }
.key { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin: 0 0 0.75rem; font-size: 0.85rem;
  color: var(--soft); }
.key i, .swatch { display: inline-block; width: 0.75rem; height: 0.75rem; margin-right: 0.4rem;
  vertical-align: -0.06rem; }
.key img { width: 6rem; height: 0.75rem; margin: 0 0.4rem; vertical-align: -0.06rem; border: 1px solid var(--line);
  image-rendering: pixelated; }
details { border-bottom: 1px solid var(--line); }
details:first-of-type { border-top: 1px solid var(--line); }
summary { display: grid; grid-template-columns: 1fr auto; gap: 0 1rem; padding: 0.65rem 0 0.75rem; cursor: pointer;
  list-style: none; }
summary::-webkit-details-marker { display: none; }
summary:focus-visible { outline: 2px solid var(--values); outline-offset: 2px; }
summary .name { position: relative; padding-left: 1.1rem; }
summary .name::before { content: "+"; position: absolute; left: 0; color: var(--soft); }
details[open] > summary .name::before { content: "\\2212"; }
summary .what { font-size: 0.85rem; color: var(--soft); padding-left: 1.1rem; }
summary .size { text-align: right; white-space: nowrap; }
summary .part { text-align: right; white-space: nowrap; font-size: 0.85rem; color: var(--soft); }
summary .bar { grid-column: 1 / -1; margin-left: 1.1rem; }
.weight { display: grid; grid-template-columns: 16rem minmax(0, 1fr); gap: 1rem 2rem;
  padding: 0.5rem 0 1.75rem 1.1rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; max-width: 16rem; height: auto; border: 1px solid var(--line);
  image-rendering: pixelated; }
figcaption { margin-top: 0.4rem; font-size: 0.85rem; line-height: 1.4; }
.why { display: block; font-size: 0.85rem; color: var(--soft); overflow-wrap: anywhere; max-width: 48rem; }
ul { margin: 0 0 1rem; padding-left: 1.1rem; max-width: 48rem; overflow-wrap: anywhere; }
ul:empty { display: none; }
li { margin-bottom: 0.3rem; }
.yes { color: var(--yes); }
.no { color: var(--no); }
.notes dt { font-weight: 600; }
.notes dd { margin: 0 0 0.6rem; max-width: 44rem; }
footer { margin-top: 3rem; font-size: 0.85rem; }
@media (max-width: 40rem) {
  body { padding: 1.25rem 1rem 3rem; }
  .wide { display: none; }
  .weight { grid-template-columns: minmax(0, 1fr); padding-left: 0; }
  th, td { padding-left: 0.6rem; }
}
@media print { details { break-inside: avoid; } }
"""
