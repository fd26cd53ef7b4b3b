"""What the page of a study adds to the style sheet of report pages."""

STYLE = """
section details summary { margin: 10px 0; font-size: .9rem; }
.question { font-size: 1.1rem; color: #1a1a1a; }
h3 { margin-top: 16px; }
.tile h3, figure h3, figure h4 { margin-top: 0; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.note, .claim .note { margin: 4px 0 0; color: #555; font-size: .85rem; }
.curves + .curves { margin-top: 20px; }
h3, .key li, figure { overflow-wrap: anywhere; }
figure, .curves > * { min-width: 0; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-top: 16px; font-size: .9rem; }
nav a { color: #0072B2; }
.grid { width: auto; min-width: min(100%, 620px); }
.grid th, .grid td { padding: 4px 14px 4px 0; }
.grid thead th { white-space: normal; vertical-align: bottom; border-bottom: 1px solid #999; }
.grid .number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.grid .words { min-width: 300px; }
.grid tbody th { position: sticky; left: 0; background: #fff; white-space: normal; overflow-wrap: anywhere;
                 min-width: 110px; max-width: 240px; }
.verdict { display: inline-block; padding: 0 8px; border-radius: 4px; white-space: nowrap; font-weight: 600;
           print-color-adjust: exact; }
.verdict.helps { background: #0072B2; color: #fff; }
.verdict.hurts { background: #b04a00; color: #fff; }
.verdict.no_difference { background: #e4e4e4; color: #222; }
.verdict.undecided { border: 1px dashed #666; color: #444; }
.key { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 18px; padding: 0; margin: 4px 0; font-size: .85rem; }
.key li { display: flex; align-items: center; gap: 6px; }
.key svg { flex: none; width: 32px; height: 12px; }
.grid .bar { min-width: 96px; background-repeat: no-repeat; background-position: left center; background-size: 0 100%;
       background-image: linear-gradient(#b9dcef, #b9dcef); print-color-adjust: exact; }
.tokens { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(260px, 100%), 1fr)); gap: 16px; }
.tokens .grid { width: 100%; min-width: 0; }
.tokens .grid tbody th, .tokens .grid .bar { min-width: 70px; }
.tokens code, .tokens th { white-space: pre-wrap; overflow-wrap: anywhere; }
.claim { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 12px; }
.claim > div { border: 1px solid #ddd; border-radius: 6px; padding: 0 14px 10px; min-width: 0;
              overflow-wrap: anywhere; }
.claim ul { padding-left: 1.2em; }
.notice, .tile { overflow-wrap: anywhere; }
@media (max-width: 600px) { .grid tbody th { max-width: 130px; } .tiles { grid-template-columns: 1fr 1fr; } }
@media print {
  html { font-size: 11px; }
  nav { display: none; }
  .tiles { grid-template-columns: repeat(6, 1fr); }
  .curves { gap: 10px; }
  .tokens { grid-template-columns: repeat(4, 1fr); }
  .tokens > div, tr, p { break-inside: avoid; }
  .scroll { overflow: visible; }
  .grid { font-size: 8px; width: 100%; min-width: 0; }
  .grid th, .grid td { padding: 2px 6px 2px 0; }
  .grid tbody th, .grid .bar { min-width: 0; }
  .grid .words { min-width: 100px; }
  h2, h3, h4, .key, section > p { break-after: avoid; }
}
"""
