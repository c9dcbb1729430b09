/** The style of the page. Colours of texts have a contrast of 4.5:1 at least on their background, light and dark. */
export const STYLE: string = `
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1b1f24; --soft: #59636e; --rule: #d1d9e0; --tint: #f4f6f8; --accent: #0b5cad; --warn: #8a4b00;
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e6e9ed; --soft: #a3adb8; --rule: #3a424b; --tint: #1d2228; --accent: #7db7f5; --warn: #f0b46a; }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0 auto; padding: 0 16px 64px; max-width: 1080px; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1.5em 0 .4em; text-wrap: balance; }
h2 { font-size: 1.3rem; margin: 0 0 .5em; }
h3 { font-size: 1.02rem; margin: 0 0 .4em; }
section { margin-top: 3rem; padding-top: 1.2rem; border-top: 1px solid var(--rule); }
p, li, dd, figcaption { max-width: 74ch; overflow-wrap: break-word; }
p { margin: 0 0 .8em; }
a { color: var(--accent); }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
nav ol { padding-left: 1.9em; columns: 16em; margin: .4em 0 1em; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.skip { position: absolute; left: -999px; }
.skip:focus { left: 16px; top: 8px; background: var(--paper); padding: 4px 8px; }
.partial { border-left: 4px solid var(--warn); padding: .5em .8em; background: var(--tint); }
.soft, figcaption, .absent { color: var(--soft); }
figure { margin: 1.6rem 0 2rem; break-inside: avoid; }
figcaption { font-size: .9em; margin: .5em 0; }
.drawing { overflow: visible; }
.drawing svg { overflow: visible; }
.plot { --plot-background: var(--paper); }
.legend-swatches { font: 13px/1.7 system-ui, sans-serif; display: flex; flex-wrap: wrap; gap: 0 1em; margin-bottom: .6em; }
.legend-swatch { display: inline-flex; align-items: center; gap: .35em; margin: 0 !important; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 0 2rem; }
.grid > figure { min-width: 0; }
.choice { display: block; margin: .6em 0; font-size: .95rem; }
select, button, input { font: inherit; color: inherit; }
select, .profiles button, .downloads a { background: var(--tint); border: 1px solid var(--soft); border-radius: 4px; padding: .2em .5em; max-width: 100%; }
.downloads a { display: inline-block; margin-right: .6em; text-decoration: none; }
fieldset { border: 1px solid var(--rule); border-radius: 6px; padding: .6em 1em 1em; margin: 1em 0; min-width: 0; }
legend { font-weight: 600; padding: 0 .4em; }
.profiles { display: flex; flex-wrap: wrap; gap: .5em; }
.profiles button { cursor: pointer; padding: .3em .8em; }
.profiles button[aria-pressed=true] { background: var(--accent); color: var(--paper); border-color: var(--accent); }
.meaning { margin: .5em 0; font-size: .9rem; color: var(--soft); }
.sliders { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 290px), 1fr)); gap: .7em 1.6em; }
.price { display: grid; grid-template-columns: 1fr 6.5em; align-content: end; gap: 0 .6em; align-items: center; font-size: .86rem; line-height: 1.35; }
.price label { grid-column: 1 / -1; }
.price label code { font-weight: 600; }
.price input { width: 100%; accent-color: var(--accent); margin: .3em 0; min-height: 24px; }
.price output { font-variant-numeric: tabular-nums; text-align: right; }
details.data summary, details.all summary { cursor: pointer; color: var(--accent); font-size: .9rem; width: fit-content; }
.scroll { overflow-x: auto; max-width: 100%; margin: .6em 0 1em; }
.data .scroll, .tall .scroll { max-height: 32rem; overflow: auto; }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.4; }
caption { text-align: left; font-weight: 600; padding: .2em 0 .4em; }
th, td { text-align: left; vertical-align: top; padding: .25em .7em; border-bottom: 1px solid var(--rule); }
th { background: var(--tint); position: sticky; top: 0; }
th button { background: none; border: 0; padding: 0; font-weight: 600; text-align: inherit; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:not(.number) { min-width: 6.5em; white-space: pre-line; max-width: 34em; }
th.number { white-space: normal; }
.claims td { min-width: 12em; max-width: 22em; overflow-wrap: break-word; }
.claims td:first-child { font-weight: 600; }
dl { display: grid; grid-template-columns: fit-content(16em) 1fr; gap: .5em 1.2em; }
dt { font-weight: 600; }
dd { margin: 0; }
footer { margin-top: 3rem; border-top: 1px solid var(--rule); padding-top: 1em; font-size: .85em; color: var(--soft); }
@media (max-width: 640px) {
  dl { display: block; }
  dd { margin-bottom: .6em; }
  .claims table, .claims tbody, .claims tr, .claims td, .claims caption { display: block; }
  .claims thead { display: none; }
  .claims td { max-width: none; border: 0; padding: .1em 0; }
  .claims tr { border-bottom: 1px solid var(--rule); padding: .5em 0; }
  .claims td:nth-child(2)::before { content: "Measured: "; font-weight: 600; }
  .claims td:nth-child(3)::before { content: "Modelled: "; font-weight: 600; }
  .claims td:nth-child(4)::before { content: "Limits: "; font-weight: 600; }
}
@media print {
  :root { --paper: #fff; --ink: #000; --soft: #444; --rule: #bbb; --tint: #f4f6f8; --accent: #000; color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav, .downloads, .skip, details.data:not([open]), details.all:not([open]), #every-figure, label.choice, .profiles button:not([aria-pressed=true]) { display: none; }
  section { break-before: auto; }
  h2, h3 { break-after: avoid; }
  .scroll, .data .scroll, .tall .scroll { overflow: visible; max-height: none; }
  .price input { display: none; }
  .grid { display: block; }
  .drawing svg { max-width: 100%; height: auto; }
  tr { break-inside: avoid; }
  table { font-size: 8pt; }
  .tall table, .data table { font-size: 6.5pt; }
  th, td { padding: .15em .35em; }
  td:not(.number) { min-width: 0; }
  th { position: static; }
}
`
