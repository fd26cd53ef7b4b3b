"""The style sheet of report pages: one column on a phone, a grid on a screen, unbroken figures on paper."""

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; }
header, main { max-width: 1200px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 24px; }
main { padding-bottom: 32px; }
h1 { margin: 0; font-size: 1.8rem; overflow-wrap: anywhere; }
header p { margin: 4px 0 16px; color: #555; overflow-wrap: anywhere; }
h2 { margin: 32px 0 12px; font-size: 1.25rem; border-bottom: 1px solid #ddd; padding-bottom: 4px; }
h3 { margin: 0 0 4px; font-size: 1rem; }
h4 { margin: 8px 0 4px; font-size: .9rem; color: #555; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 12px; }
.tile { border: 1px solid #ddd; border-radius: 6px; padding: 12px; }
.tile h3 { font-size: .85rem; font-weight: 600; color: #555; }
.tile p { margin: 0; font-size: .8rem; color: #555; }
.tile .value { font-size: 1.35rem; font-weight: 600; color: #0072B2; }
.notice { border-left: 4px solid #D55E00; padding: 1px 16px 4px; margin-top: 24px; background: #fdf5ef; }
.notice h2 { border: 0; margin: 8px 0 0; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)); gap: 20px; }
figure { margin: 0; break-inside: avoid; }
figure svg { width: 100%; height: auto; max-width: 560px; display: block; }
figcaption { font-size: .8rem; color: #555; }
article { break-inside: avoid; margin-bottom: 24px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 12px; }
pre { margin: 0; padding: 8px 10px; background: #f5f5f5; border-radius: 4px; font-size: .82rem;
      white-space: pre-wrap; overflow-wrap: anywhere; }
.badges { margin: 0 0 4px; }
.badge { display: inline-block; padding: 0 8px; border: 1px solid #bbb; border-radius: 10px; font-size: .75rem;
         overflow-wrap: anywhere; }
.badge.good { background: #009E73; border-color: #009E73; color: #fff; }
.badge.bad { background: #fff; border-color: #D55E00; color: #b04a00; }
dl { display: grid; grid-template-columns: minmax(110px, max-content) 1fr; gap: 6px 16px; margin: 0; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 3px 10px 3px 0; border-bottom: 1px solid #eee; }
th { font-weight: 600; white-space: nowrap; }
td { overflow-wrap: anywhere; }
details summary { cursor: pointer; font-weight: 600; margin: 24px 0 12px; }
@media (max-width: 600px) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 8px; }
}
@media print {
  body { font-size: 11px; }
  .curves { grid-template-columns: 1fr 1fr; }
  .tile { break-inside: avoid; }
  .badge, .notice, pre { print-color-adjust: exact; }
}
"""
