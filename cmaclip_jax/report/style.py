"""The style of the pages: light and dark, on a phone and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fdfdfc; --card: #f3f3f0; --text: #1c1d1f; --quiet: #585b60; --line: #d5d5d0;
  --image: #1f6fb8; --words: #d98a1f; --link: #0b57a4; --good: #1b7a43; --bad: #b3261e;
  --cell: 31 111 184; --fall: 179 38 30; --mark: #b3261e;
  --s0: #1f6fb8; --s1: #c4570c; --s2: #1b7a43; --s3: #9a3fb5;
  --s4: #8a6d00; --s5: #c02f6b; --s6: #7a4b2a; --s7: #63666b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #17181a; --card: #222427; --text: #ececea; --quiet: #a9adb3; --line: #3c3f44;
    --image: #5aa9ee; --words: #e8a94b; --link: #8cc4f8; --good: #6fcf97; --bad: #ff8f84;
    --cell: 90 169 238; --fall: 255 120 108; --mark: #ff8f84;
    --s0: #5aa9ee; --s1: #f0924e; --s2: #6fcf97; --s3: #cf8ce6;
    --s4: #d8bd45; --s5: #f58ab4; --s6: #c9a27e; --s7: #b3b6bb;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 0 1rem 4rem; max-width: 72rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1.5rem 0 .25rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1.1rem; margin: 0; }
h4 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
a { color: var(--link); }
header p, .quiet, figcaption, caption { color: var(--quiet); }
code { font-size: .9em; background: var(--card); padding: .1em .3em; border-radius: .25em; }
:focus-visible { outline: 3px solid var(--image); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; }
.skip:focus { position: static; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; list-style: none; }
.tiles, .plots, .pairs { display: grid; gap: 1rem; margin: 1rem 0; }
.tiles { grid-template-columns: repeat(auto-fill, minmax(min(100%, 9rem), 1fr)); }
.tiles > div { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
.tiles b { display: block; font-size: 1.5rem; line-height: 1.2; }
.tiles span { color: var(--quiet); font-size: .875rem; }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 27rem)); }
.pairs { grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .75rem; }
dl { margin: 1rem 0; }
dl > div { display: flex; gap: 0 1rem; padding: .15rem 0; }
dt { color: var(--quiet); flex: 0 0 min(15rem, 42%); }
dd { margin: 0; min-width: 0; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .875rem; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--quiet); font: 11.5px system-ui, sans-serif; }
svg text.named { fill: var(--text); }
.grid { stroke: var(--line); stroke-width: 1; }
.ideal { stroke: var(--quiet); stroke-dasharray: 4 4; fill: none; }
.bar { fill: var(--s7); opacity: .35; }
.mark { fill: var(--mark); stroke: var(--page); stroke-width: 1.5; }
.bin { fill: var(--image); stroke: var(--page); }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.key { list-style: none; padding: 0; margin: .25rem 0; }
.key { display: flex; flex-wrap: wrap; gap: 0 1rem; }
.key li { font-size: .875rem; display: flex; align-items: center; gap: .4rem; }
.key svg { width: 1.6rem; flex: none; }
.wide { overflow-x: auto; max-width: 100%; margin: .75rem 0; container-type: inline-size; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
caption span { display: block; max-width: 100cqw; width: max-content; position: sticky; left: 0; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
th { font-weight: 600; overflow-wrap: normal; }
thead th { vertical-align: bottom; }
th:first-child {
  text-align: left; position: sticky; left: 0; background: var(--page); max-width: 11rem;
}
td { white-space: nowrap; }
td.words, th.words { text-align: left; }
td.words { white-space: normal; min-width: 9rem; }
.matrix th, .matrix td { padding: .2rem .4rem; }
.matrix thead th:not(:first-child) {
  writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; max-height: 9rem;
}
.matrix td { background: rgb(var(--cell) / var(--part, 0)); text-align: center; border: 0; }
.matrix td.hit { outline: 1px solid var(--quiet); outline-offset: -1px; }
td.rise { background: rgb(var(--cell) / var(--part)); }
td.fall { background: rgb(var(--fall) / var(--part)); }
.share {
  display: inline-block; width: 6rem; height: .8rem; vertical-align: middle;
  background: var(--words); border-radius: .2rem; overflow: hidden;
}
.share > span { display: block; height: 100%; background: var(--image); }
.swatch { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; }
.swatch.image { background: var(--image); }
.swatch.text { background: var(--words); }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .75rem 0; padding: 0 .9rem; }
details[open] { padding-bottom: .75rem; }
details details { border-style: dashed; }
summary { cursor: pointer; padding: .6rem 0; }
summary h3 { display: inline; margin-right: .75rem; }
summary span { color: var(--quiet); margin-right: .75rem; white-space: nowrap; }
.pair { background: var(--card); border-radius: .5rem; padding: .6rem; min-width: 0; }
.pair img, .none { width: 100%; aspect-ratio: 1; border-radius: .3rem; }
.pair p { margin: .3rem 0; font-size: .875rem; line-height: 1.4; }
.none {
  display: grid; place-items: center; border: 1px dashed var(--quiet); color: var(--quiet);
  text-align: center; padding: .5rem; font-size: .875rem;
}
.good { color: var(--good); }
.bad { color: var(--bad); }
.whole { border-top: 1px solid var(--line); padding: 1rem 0; }
.whole > .both { display: grid; gap: 0 1.5rem; align-items: start; }
@media (min-width: 48rem) { .whole > .both { grid-template-columns: 14rem minmax(0, 1fr); } }
.both > *, section > *, details > * { min-width: 0; }
.whole .first { max-width: 14rem; }
.heats { display: grid; gap: .75rem; }
.heats { grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
.heat { position: relative; aspect-ratio: 1; overflow: hidden; border-radius: .3rem; }
.heat img { position: absolute; inset: 0; width: 100%; height: 100%; border-radius: 0; }
.heat img + img { image-rendering: pixelated; }
img { display: block; }
@media (max-width: 30rem) {
  table { font-size: .8rem; }
  th, td, .matrix th, .matrix td { padding: .2rem; }
  .share { width: 3.5rem; }
  td.words, th.words { min-width: 4.5rem; }
}
@media print { .wide { overflow: visible; } nav { display: none; } }
"""
