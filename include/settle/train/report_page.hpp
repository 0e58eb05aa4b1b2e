#pragma once
#include <string>

#include "settle/train/chart.hpp"

// What every report has in common: how it looks, and the few lines of script that it can do without.
namespace settle::inline v0_2::detail {

inline constexpr const char* report_style = R"css(
:root { color-scheme: light dark;
  --ground: #fbfaf8; --panel: #ffffff; --ink: #1c1b1a; --soft: #6b6862; --line: #e4e0d9; --faint: #f3f0ea;
  --good: #14804a; --warn: #a86200; --bad: #c0342b; --accent: #d97706; --glow: #fff4e2;
  --c0: #c2570c; --c1: #2563a8; --c2: #12805c; --c3: #a03a80; --c4: #7a6a00; --c5: #5b5bd6; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #141312; --panel: #1d1c1a; --ink: #efece6; --soft: #a29d94; --line: #34312d; --faint: #262421;
  --good: #4cc38a; --warn: #f0b45a; --bad: #ff7b72; --accent: #f59e0b; --glow: #2c2313;
  --c0: #ff9f45; --c1: #6cb6ff; --c2: #4fd1a5; --c3: #e58bc7; --c4: #e2cc4a; --c5: #a5a5ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main, header { max-width: 1240px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 34px; }
h1 { font-size: 30px; line-height: 1.15; letter-spacing: -.02em; margin: 0; overflow-wrap: anywhere; }
h1 + p { color: var(--soft); margin: 6px 0 0; overflow-wrap: anywhere; }
h2 { font-size: 20px; letter-spacing: -.01em; margin: 44px 0 4px; }
h3 { font-size: 14px; margin: 18px 0 8px; color: var(--soft); font-weight: 600; }
.lead { color: var(--soft); margin: 0 0 14px; max-width: 78ch; }
a { color: inherit; text-decoration-color: var(--accent); text-underline-offset: 3px; }
code, pre { font: 12.5px/1.5 ui-monospace, "SF Mono", "DejaVu Sans Mono", monospace; }
pre { background: var(--faint); border-radius: 8px; padding: 10px 12px; margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.sr { position: absolute; width: 1px; height: 1px; opacity: 0; pointer-events: none; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); }
.c3 { --c: var(--c3); } .c4 { --c: var(--c4); } .c5 { --c: var(--c5); }

.verdict { background: var(--panel); border: 1px solid var(--line); border-left: 5px solid var(--c);
  border-radius: 12px; padding: 18px 20px; margin: 20px 0 0; }
.verdict .name { font-weight: 650; color: var(--c); overflow-wrap: anywhere; }
.verdict .name span { color: var(--soft); font-weight: 400; font-size: 13px; margin-left: 6px; }
.verdict p { font-size: 18px; line-height: 1.45; margin: 4px 0 0; max-width: 72ch; text-wrap: pretty; }
.verdict b.good { color: var(--good); } .verdict b.warn { color: var(--warn); } .verdict b.bad { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 8px; margin-top: 14px; }
.tile { background: var(--faint); border-radius: 9px; padding: 9px 12px; }
.tile b { display: block; font-size: 21px; font-weight: 650; letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 12.5px; }

.switches { position: sticky; top: 0; z-index: 3; display: flex; flex-wrap: wrap; gap: 6px 18px; align-items: center;
  background: color-mix(in srgb, var(--ground) 92%, transparent); padding: 8px 0; font-size: 13px; color: var(--soft); }
.switches div { display: flex; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; background: var(--panel); }
.switches label { padding: 3px 11px; cursor: pointer; }
.switches label + label { border-left: 1px solid var(--line); }
#axis-auto:checked ~ main [for=axis-auto], #axis-lin:checked ~ main [for=axis-lin], #axis-log:checked ~ main [for=axis-log],
#ema-0:checked ~ main [for=ema-0], #ema-1:checked ~ main [for=ema-1], #ema-2:checked ~ main [for=ema-2]
  { background: var(--glow); color: var(--ink); font-weight: 600; }
input:focus-visible ~ main .switches { outline: 2px solid var(--accent); outline-offset: 2px; }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(350px, 100%), 1fr)); gap: 14px; }
figure { margin: 0; background: var(--panel); border: 1px solid var(--line); border-radius: 12px; padding: 12px 14px 10px; min-width: 0; }
figcaption { display: grid; grid-template-columns: 1fr auto; gap: 0 8px; align-items: baseline; font-size: 14px; margin-bottom: 4px; }
figcaption span { color: var(--soft); font-size: 12.5px; grid-row: 2; grid-column: 1 / 3; }
button { font: inherit; font-size: 12px; color: var(--soft); background: none; border: 1px solid var(--line); border-radius: 6px;
  padding: 1px 8px; cursor: pointer; }
button:hover { color: var(--ink); border-color: var(--soft); }
html:not(.script) .script-only { display: none; } html:not(.script) .save { display: none; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: 11.5px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--soft); }
svg .word { paint-order: stroke; stroke: var(--panel); stroke-width: 3px; }
.grid { stroke: var(--line); stroke-width: 1; fill: none; }
.frame { stroke: var(--soft); stroke-width: 1; fill: none; opacity: .6; }
.mark { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3; fill: none; }
.cursor { stroke: var(--ink); stroke-width: 1; opacity: .5; fill: none; }
.curve { stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; fill: none; }
.dashed { stroke-dasharray: 5 3; }
.legend { display: flex; flex-wrap: wrap; gap: 0 16px; font-size: 12.5px; color: var(--soft); }
.legend b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.key i { display: inline-block; width: 16px; border-top: 3px solid var(--c); vertical-align: middle; margin-right: 6px; }
.key i.dashed { border-top-style: dotted; }
.key { overflow-wrap: anywhere; }
#axis-auto:checked ~ main .prefers-lin .log, #axis-auto:checked ~ main .prefers-log .lin,
#axis-lin:checked ~ main .log, #axis-log:checked ~ main .lin { display: none; }
#ema-0:checked ~ main :is(.e1, .e2), #ema-1:checked ~ main .e2, #ema-2:checked ~ main .e1 { display: none; }
#ema-1:checked ~ main .e0, #ema-2:checked ~ main .e0 { opacity: .22; stroke-width: 1; }
#ema-1:checked ~ main.several .e0, #ema-2:checked ~ main.several .e0 { opacity: .12; }

table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; background: var(--panel); border: 1px solid var(--line); border-radius: 12px; padding: 4px 14px 8px; }
.wide table { width: 100%; }
.narrow { max-width: 620px; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 2px; }
tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th.run { color: var(--c); white-space: normal; overflow-wrap: anywhere; min-width: 84px; }
td small { color: var(--soft); margin-left: 6px; } td small.up { color: var(--good); } td small.down { color: var(--bad); }
td.differs { background: var(--glow); font-weight: 600; }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--soft); }

.strip { display: flex; height: 20px; border-radius: 6px; overflow: hidden; background: var(--faint); }
.strip i { flex: 1; display: flex; flex-direction: column; } .strip i s { display: block; }
.v0 { background: var(--line); } .v1 { background: var(--good); } .v2 { background: var(--c1); } .v3 { background: var(--warn); }
.v4 { background: var(--c3); } .v5 { background: var(--bad); } .v6 { background: var(--ink); } .v7 { background: var(--c5); }
.verdicts td { border: 0; padding: 5px 10px 5px 0; } .verdicts td:nth-child(2) { width: 55%; min-width: 150px; }
.verdicts td:last-child { text-align: left; white-space: normal; color: var(--soft); }
.verdicts td:last-child i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin: 0 5px 0 0; }
.verdicts td:last-child span { margin-right: 14px; display: inline-block; }

.scrub { display: flex; gap: 12px; align-items: center; position: sticky; top: 0; z-index: 2; padding: 8px 0;
  background: color-mix(in srgb, var(--ground) 92%, transparent); }
.scrub input { flex: 1; max-width: 520px; accent-color: var(--accent); }
.scrub output { font-weight: 650; font-variant-numeric: tabular-nums; min-width: 10ch; }
.groups { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 14px; align-items: start; }
.film { width: 100%; table-layout: fixed; } .film th, .film td { border: 0; padding: 4px 3px; text-align: center; font-size: 11.5px; white-space: normal; }
.film td:first-child, .film th:first-child { text-align: left; padding-right: 8px; white-space: nowrap; }
.film td:first-child b { display: block; font-size: 13.5px; }
.film i { display: block; width: 100%; max-width: 128px; aspect-ratio: 1; border-radius: 5px; margin: 0 auto;
  background-repeat: no-repeat; image-rendering: pixelated;
  background-size: calc(var(--columns) * 100%) calc(var(--rows) * 100%);
  background-position: calc(var(--k) / (var(--columns) - 1) * 100%) calc(var(--r) / max(1, var(--rows) - 1) * 100%); }
.film .now { --k: calc(2 + var(--frame)); box-shadow: 0 0 0 2px var(--accent); }
.film th:first-child { width: 56px; } .film th:nth-child(n + 2):nth-child(-n + 4) { width: 15%; }

.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 5px 12px; align-items: center; font-size: 13.5px; }
.bars i { display: block; height: 12px; border-radius: 4px; background: var(--c); min-width: 2px; }
.bars b { font-variant-numeric: tabular-nums; font-weight: 600; text-align: right; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 14px; align-items: start; }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; min-width: 0; }
.panel h3:first-child { margin-top: 0; }
footer { color: var(--soft); font-size: 12.5px; max-width: 1240px; margin: 40px auto 0; padding: 0 24px 40px; }
.tip { position: fixed; pointer-events: none; z-index: 9; background: var(--ink); color: var(--ground); border-radius: 7px;
  padding: 5px 9px; font-size: 12px; line-height: 1.45; white-space: pre; font-variant-numeric: tabular-nums; display: none; }
@media (max-width: 620px) {
  body { font-size: 14.5px; } main, header, footer { padding-left: 14px; padding-right: 14px; } header { padding-top: 22px; }
  h1 { font-size: 24px; } h2 { margin-top: 34px; } .verdict { padding: 14px; } .verdict p { font-size: 16.5px; }
  .tiles { grid-template-columns: repeat(2, 1fr); } .film .still { display: none; } figure { padding: 10px 8px 8px; }
  .switches { gap: 6px 10px; font-size: 12.5px; } .switches span { display: none; } .wide { padding: 2px 8px 6px; }
  th, td { padding: 5px 6px; } svg text { font-size: 13px; } 
  .verdicts, .verdicts tbody, .verdicts tr, .verdicts td, .verdicts td:nth-child(2) { display: block; width: 100%; }
  .verdicts td { padding: 2px 0; } .verdicts tr { padding: 4px 0; }
  .film th:nth-child(n + 2):nth-child(-n + 4) { width: auto; }
}
@media print { .switches, .scrub, button { display: none; } figure, .verdict, .panel { break-inside: avoid; } }
)css";

inline constexpr const char* report_script = R"js(
'use strict';
document.documentElement.classList.add('script');
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const seen = element => getComputedStyle(element).display !== 'none';

// The recurrent steps.
for (const section of all('.samples')) {
  const slider = section.querySelector('input'), out = section.querySelector('output'), play = section.querySelector('button');
  const frames = slider.dataset.frames.split(',');
  const show = () => {
    section.style.setProperty('--frame', slider.value);
    out.textContent = 'step ' + frames[slider.value];
    for (const score of all('[data-f1]', section)) score.textContent = Number(score.dataset.f1.split(',')[slider.value]).toFixed(3);
  };
  let timer = 0;
  slider.addEventListener('input', show);
  play.addEventListener('click', () => {
    if (timer) { clearInterval(timer); timer = 0; play.textContent = 'play'; return; }
    play.textContent = 'stop';
    timer = setInterval(() => { slider.value = (Number(slider.value) + 1) % frames.length; show(); }, 220);
  });
  show();
}

// What the curves are where the pointer is, in all charts of a group at once.
const tip = document.body.appendChild(document.createElement('div'));
tip.className = 'tip';
const left = 52, right = 448, top_ = 10, bottom = 206;
const points = path => path.points ??= [...path.getAttribute('d').matchAll(/[ML]([-\d.]+) ([-\d.]+)/g)].map(p => [+p[1], +p[2]]);
const number = v => Math.abs(v) >= 1e5 || (v !== 0 && Math.abs(v) < 1e-3) ? v.toExponential(2) : String(+v.toPrecision(4));
for (const svg of all('.chart svg')) {
  const chart = svg.closest('.chart'), group = all('.chart', chart.parentElement);
  const clear = () => { tip.style.display = 'none'; for (const one of group) one.querySelector('.cursor').setAttribute('d', ''); };
  svg.addEventListener('pointerleave', clear);
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * 460 / box.width;
    if (x < left || x > right) return clear();
    for (const one of group) one.querySelector('.cursor').setAttribute('d', `M${x} ${top_}V${bottom}`);
    const share = (x - left) / (right - left), low = +chart.dataset.low, high = +chart.dataset.high;
    const lines = [number(low + share * (high - low))];
    for (const axis of all('.lin, .log', svg).filter(seen)) {
      const curves = all('.curve', axis).filter(seen), names = new Map();
      for (const curve of curves) names.set(curve.dataset.name, curve);  // the smoothest of those that are seen
      for (const [name, curve] of names) {
        const list = points(curve);
        if (!list.length) continue;
        const near = list.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
        const up = (bottom - near[1]) / (bottom - top_), a = +axis.dataset.low, b = +axis.dataset.high;
        lines.push(name + '  ' + number(axis.classList.contains('log') ? a * Math.pow(b / a, up) : a + up * (b - a)));
      }
    }
    tip.textContent = lines.join('\n');
    tip.style.display = 'block';
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 6) + 'px';
    tip.style.top = Math.max(6, event.clientY - tip.offsetHeight - 10) + 'px';
  });
}

// A chart as a file of its own: what the style sheet says is written into it.
for (const button of all('.save')) button.addEventListener('click', () => {
  const svg = document.getElementById(button.dataset.figure).querySelector('svg'), copy = svg.cloneNode(true);
  const from = all('*', svg), to = all('*', copy);
  from.forEach((element, k) => {
    const style = getComputedStyle(element);
    if (style.display === 'none') return to[k].remove();
    for (const name of ['stroke', 'stroke-width', 'stroke-dasharray', 'fill', 'opacity', 'paint-order', 'font-size', 'font-family'])
      to[k].setAttribute(name, style.getPropertyValue(name));
  });
  copy.setAttribute('xmlns', 'http:' + '//www.w3.org/2000/svg');
  const ground = document.createElementNS(svg.namespaceURI, 'rect');
  ground.setAttribute('width', '100%'), ground.setAttribute('height', '100%');
  ground.setAttribute('fill', getComputedStyle(svg.closest('figure')).backgroundColor);
  copy.prepend(ground);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], {type: 'image/svg+xml'}));
  link.download = button.dataset.figure + '.svg';
  link.click();
});
)js";

/// A whole page: what it is called, a line beneath, and its sections as HTML. Of `several` runs the curves' points are
/// fainter.
inline std::string report_document(const std::string& title, const std::string& subtitle, const std::string& body,
                                   const std::string& more_style = {}, bool several = false) {
  std::string switches;
  const auto radio = [&](const char* group, const char* id, bool chosen) {
    switches += joined("<input class=\"sr\" type=\"radio\" name=\"", group, "\" id=\"", id, "\"",
                       chosen ? " checked" : "", ">");
  };
  radio("axis", "axis-auto", true), radio("axis", "axis-lin", false), radio("axis", "axis-log", false);
  radio("ema", "ema-0", false), radio("ema", "ema-1", true), radio("ema", "ema-2", false);
  return joined(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>", escaped(title),
      "</title>\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src 'unsafe-inline'; img-src data:\">\n<style>",
      report_style, more_style, "</style></head>\n<body>", switches, "\n<header><h1>", escaped(title), "</h1><p>",
      escaped(subtitle), "</p></header>\n<main", several ? " class=\"several\"" : "", ">\n", body,
      "</main>\n<footer>Made of the run's own files by settle. Nothing on this page comes from anywhere else."
      "</footer>\n<script>",
      report_script, "</script></body></html>\n");
}

}  // namespace settle::detail
