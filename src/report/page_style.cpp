#include "report/page_style.h"

namespace slidesparse {

// Colours of series have at least 3:1 against their background, texts at least 4.5:1.
const char* const kPageStyle = R"css(
:root{color-scheme:light dark;--bg:#fff;--ink:#1b1f24;--soft:#57606a;--edge:#d0d7de;--band:#f6f8fa;--good:#116329;--bad:#b3261e;--link:#0550ae;
--c0:#57606a;--c1:#0b62c4;--c2:#b35900;--c3:#0e7a52;--c4:#b02a7c;--c5:#7a5af0;--c6:#0f7f94;--c7:#8a6d00}
@media (prefers-color-scheme:dark){:root{--bg:#0f1319;--ink:#e6eaf0;--soft:#9aa5b1;--edge:#323b47;--band:#171d26;--good:#57c97a;--bad:#ff8a80;--link:#79b8ff;
--c0:#9aa5b1;--c1:#6cb2ff;--c2:#ffa657;--c3:#4fd1a0;--c4:#ff8fd0;--c5:#b6a2ff;--c6:#56d4e6;--c7:#e3c34d}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif}
main,header{max-width:1180px;margin:0 auto;padding:0 16px;overflow-wrap:anywhere}
header{padding-top:24px}
main{padding-bottom:48px}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 12px}
h2{font-size:1.3rem;margin:40px 0 12px;padding-top:12px;border-top:1px solid var(--edge)}
a{color:var(--link)}
nav ul{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;margin:0;padding:0}
nav li{margin:0}
nav a{display:inline-block;padding:6px 0}
main ul{padding-left:1.2em}
li{margin:4px 0}
.scroll{overflow-x:auto;margin:16px 0;border:1px solid var(--edge);border-radius:8px}
.scroll:focus-visible,summary:focus-visible,a:focus-visible{outline:2px solid var(--link);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:.875rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:10px 12px}
caption span{position:sticky;left:12px;display:inline-block;max-width:min(1120px,calc(100vw - 60px))}
th,td{padding:7px 12px;border-top:1px solid var(--edge);text-align:right;vertical-align:top;white-space:nowrap;overflow-wrap:normal}
thead th{color:var(--soft);font-weight:600;background:var(--band)}
tbody th{font-weight:500;text-align:left;position:sticky;left:0;background:var(--bg)}
.l{text-align:left}
td.l{min-width:14ch;max-width:60ch;white-space:normal;overflow-wrap:anywhere}
tr.total>*{font-weight:600;background:var(--band);border-top:2px solid var(--edge)}
tbody small{display:block;color:var(--soft);font-size:.78rem}
.counts thead th{white-space:normal}
.counts small{white-space:normal;min-width:11ch;font-weight:400}
.good{color:var(--good)}
.bad{color:var(--bad)}
.quiet{color:var(--soft)}
code{font:.8rem/1.4 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
td.code{text-align:left;min-width:36ch}
details{margin:16px 0;border:1px solid var(--edge);border-radius:8px}
details .scroll{margin:0;border:0;border-top:1px solid var(--edge);border-radius:0}
summary{padding:10px 12px;cursor:pointer;font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:20px;margin:12px 0}
figure{margin:0;max-width:580px}
figcaption{font-weight:600;font-size:.9rem;margin-bottom:4px}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;padding:0!important;margin:12px 0;font-size:.875rem}
.legend li{display:flex;align-items:center;gap:6px;margin:0}
svg{display:block;width:100%;height:auto;font:11.5px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Noto Sans CJK SC",sans-serif}
svg text{fill:var(--ink)}
svg.sample{width:30px;height:12px;flex:none}
.grid{stroke:var(--edge);stroke-width:.8}
.axis{stroke:var(--soft);stroke-width:1}
.ref{stroke:var(--ink);stroke-width:1.4;stroke-dasharray:5 4}
.line{fill:none;stroke:var(--c);stroke-width:2}
.mark{fill:var(--c);stroke:var(--bg);stroke-width:1}
.whisker{stroke:var(--c);stroke-width:1.2;opacity:.65}
.k1 .line{stroke-dasharray:7 3}
.k2 .line{stroke-dasharray:2 3}
.k3 .line{stroke-dasharray:9 3 2 3}
.k4 .line{stroke-dasharray:4 2}
.outer{fill:var(--c);opacity:.28}
.inner{fill:var(--c)}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}.c6{--c:var(--c6)}.c7{--c:var(--c7)}
@media (max-width:600px){body{font-size:15px}h1{font-size:1.4rem}th,td{padding:6px 9px}tbody th{min-width:16ch;max-width:42vw;white-space:normal;overflow-wrap:anywhere}}
@media print{details>*{display:block}.scroll{overflow:visible}}
)css";

}  // namespace slidesparse
