"use strict";
(() => {
  const { groups } = JSON.parse(document.getElementById("data").textContent);
  const COSTS = { bytes: "Bytes", params: "Parameters", macs: "MACs", latency_ms: "Latency" };
  const SCORES = { metric_val: "metric", loss_val: "loss", metric_test: "test metric" };
  const root = document.documentElement;
  root.classList.add("js");

  const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const color = (series) => style(`--c${series % 8}`);
  const symbol = (group, series) => group.symbols[series % group.symbols.length];
  // plotly reads a little HTML in its texts; names and settings come from files and must stay text
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const mid = (value) => (Array.isArray(value) ? value[0] : value);
  const has = (dot, key) => dot.v[key] !== undefined;

  function short(value) {
    if (value === 0) return "0";
    const size = Math.floor(Math.log10(Math.abs(value)));
    if (size >= 2) return Math.round(value).toLocaleString("en");
    return size < -4 ? value.toExponential(1) : String(Number(value.toFixed(2 - size)));
  }
  function scaled(value, units) {
    let index = 0;
    while (Math.abs(value) >= 999.5 && index < units.length - 1) { value /= 1000; index += 1; }
    return `${short(value)} ${units[index]}`.trim();
  }
  function written(key, value, group) {
    if (key.endsWith("_ratio")) return `${short(value)}×`;
    if (key === "bytes") return scaled(value, ["B", "kB", "MB", "GB", "TB"]);
    if (key === "latency_ms") return `${short(value)} ms`;
    if (key === "params" || key === "macs") return scaled(value, ["", "k", "M", "G", "T"]);
    return group.percent && key !== "loss_val" ? `${(100 * value).toFixed(2)} %` : short(value);
  }
  function between(key, value, group) {
    if (!Array.isArray(value)) return written(key, value, group);
    return `${written(key, value[0], group)} (${written(key, value[1], group)} to ${written(key, value[2], group)})`;
  }
  function wrapped(text, width) {
    const lines = [""];
    for (const word of String(text).split(" ").flatMap((w) => w.match(new RegExp(`.{1,${width}}`, "gu")) || [])) {
      if (lines[lines.length - 1].length + word.length > width) lines.push("");
      lines[lines.length - 1] += `${word} `;
    }
    return lines.map((line) => plain(line.trim())).join("<br>");
  }
  function hover(group, dot) {
    const lines = [`<b>${wrapped(dot.m || group.names[dot.s], 44)}</b>`];
    if (dot.t) lines.push(wrapped(dot.t, 48));
    for (const key of Object.keys(SCORES)) if (has(dot, key)) lines.push(`${SCORES[key]}: ${between(key, dot.v[key], group)}`);
    for (const key of Object.keys(COSTS)) {
      if (!has(dot, key)) continue;
      const ratio = has(dot, `${key}_ratio`) ? ` · ${written(`${key}_ratio`, mid(dot.v[`${key}_ratio`]), group)}` : "";
      lines.push(`${COSTS[key]}: ${between(key, dot.v[key], group)}${ratio}`);
    }
    if (dot.n) lines.push(`median of ${dot.n} runs`);
    if (dot.seed !== undefined) lines.push(`seed ${plain(dot.seed)}`);
    if (dot.step !== undefined) lines.push(`step ${dot.step}`);
    if (dot.best) lines.push("<b>chosen</b>");
    if (dot.x) lines.push("measured and rejected");
    return lines.join("<br>");
  }

  /* The dots no other one beats, from the cheapest on. */
  function front(dots, cost, score, group) {
    const sign = score === "loss_val" || !group.maximize ? -1 : 1;
    const ranked = dots.filter((d) => !d.x && has(d, cost) && has(d, score))
      .sort((a, b) => mid(a.v[cost]) - mid(b.v[cost]) || sign * (mid(b.v[score]) - mid(a.v[score])));
    let best = -Infinity;
    return ranked.filter((d) => {
      const value = sign * mid(d.v[score]);
      if (value <= best) return false;
      best = value;
      return true;
    });
  }

  function spread(dots, key, scale) {
    const values = dots.map((d) => d.v[key]);
    if (!values.some(Array.isArray)) return undefined;
    return {
      type: "data", symmetric: false, thickness: 1, width: 0,
      array: values.map((v) => (Array.isArray(v) ? scale * (v[2] - v[0]) : 0)),
      arrayminus: values.map((v) => (Array.isArray(v) ? scale * (v[0] - v[1]) : 0)),
    };
  }
  function points(group, dots, state, look) {
    const { x, y, scale } = state;
    return {
      type: "scatter", mode: "markers", x: dots.map((d) => mid(d.v[x])), y: dots.map((d) => scale * mid(d.v[y])),
      error_x: spread(dots, x, 1), error_y: spread(dots, y, scale), hovertext: dots.map((d) => hover(group, d)), hoverinfo: "text", ...look,
    };
  }
  function line(dots, state, look) {
    return {
      type: "scatter", mode: "lines", hoverinfo: "skip", x: dots.map((d) => mid(d.v[state.x])),
      y: dots.map((d) => state.scale * mid(d.v[state.y])), ...look,
    };
  }
  function traces(group, state, dots) {
    const made = [line(front(dots, state.cost, state.y, group), state, { line: { color: style("--front"), width: 5 }, opacity: 0.35 })];
    const series = [...new Set(dots.map((d) => d.s))].filter((s) => !state.hidden.has(s));
    for (const s of series) {
      const own = dots.filter((d) => d.s === s && d.x);
      if (own.length) {
        const marker = { color: color(s), symbol: `${symbol(group, s)}-open`, size: 7, line: { width: 1.2 } };
        made.push(points(group, own, state, { marker, opacity: 0.4 }));
      }
    }
    for (const s of series) {
      const own = dots.filter((d) => d.s === s && !d.x);
      const dash = ["solid", "dash", "dot", "dashdot"][s % 4];
      made.push(line(front(own, state.cost, state.y, group), state, { line: { color: color(s), width: 1.5, dash } }));
      const marker = { color: color(s), symbol: symbol(group, s), size: own.length > 400 ? 5 : 8, line: { width: 1, color: style("--surface") } };
      made.push(points(group, own, state, { marker }));
    }
    const before = group.baseline;
    const place = state.x.endsWith("_ratio") ? 1 : before[state.cost];
    if (before[state.y] !== undefined && place !== undefined) {
      const told = `<b>before</b><br>${written(state.y, before[state.y], group)}`;
      made.push({ type: "scatter", mode: "markers", x: [place], y: [state.scale * before[state.y]], hovertext: [told], hoverinfo: "text",
        marker: { symbol: "star", size: 12, color: style("--ink") } });
    }
    const best = dots.filter((d) => d.best && !state.hidden.has(d.s));
    made.push(points(group, best, state, { error_x: undefined, error_y: undefined,
      marker: { symbol: "circle-open", size: 19, color: style("--ink"), line: { width: 2 } } }));
    return made;
  }

  /* The window of scores worth the room: a few ruined networks must not flatten everything else. */
  function window_(group, dots, state) {
    const anchors = front(dots, state.cost, state.y, group).map((d) => mid(d.v[state.y]));
    for (const value of [group.limits[state.y], group.baseline[state.y]]) if (value !== undefined) anchors.push(value);
    const all = dots.map((d) => mid(d.v[state.y]));
    const top = Math.max(...anchors), bottom = Math.min(...anchors);
    const span = Math.max(top - bottom, 0.02 * Math.abs(top), 1e-9);
    const shown = [...all.filter((v) => v >= bottom - 1.5 * span && v <= top + 1.5 * span), ...anchors];
    const low = Math.min(...shown), high = Math.max(...shown), margin = 0.07 * (high - low || span);
    return { low: low - margin, high: high + margin, outside: all.filter((v) => v < low - margin || v > high + margin).length };
  }
  const wide = (values) => Math.min(...values) > 0 && Math.max(...values) / Math.min(...values);

  /* Round numbers with their units: 1, 2 and 5 of each decade while they fit. */
  function ticks(values, key, group, narrow) {
    const low = Math.floor(Math.log10(Math.min(...values))) - 1, high = Math.ceil(Math.log10(Math.max(...values))) + 1;
    const steps = wide(values) < (narrow ? 40 : 5000) ? [1, 2, 5] : [1];
    const tickvals = [];
    for (let decade = low; decade <= high; decade += 1) for (const step of steps) tickvals.push(Number(`${step}e${decade}`));
    return { tickvals, ticktext: tickvals.map((value) => written(key, value, group)) };
  }
  function layout(group, state, dots) {
    const narrow = window.innerWidth < 560;
    const xs = dots.map((d) => mid(d.v[state.x])), ys = dots.map((d) => mid(d.v[state.y]));
    const log = wide(xs) > 4, logY = state.y === "loss_val" && state.whole && wide(ys) > 20;
    const axis = {
      gridcolor: style("--grid"), linecolor: style("--rule"), tickcolor: style("--rule"), zeroline: false, automargin: true,
      title: { font: { size: narrow ? 11.5 : 13 }, standoff: 10 }, fixedrange: narrow,
    };
    const percent = group.percent && state.y !== "loss_val";
    const made = {
      autosize: true, showlegend: false, hovermode: "closest", dragmode: narrow ? false : "zoom",
      margin: { l: 10, r: 18, t: 40, b: 10, pad: 4 }, paper_bgcolor: style("--surface"), plot_bgcolor: style("--surface"),
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: style("--soft") },
      hoverlabel: { bgcolor: style("--surface"), bordercolor: style("--rule"), font: { color: style("--ink"), size: 12.5 }, align: "left" },
      xaxis: { ...axis, title: { ...axis.title, text: group.titles[state.x] }, type: log ? "log" : "linear",
        showgrid: false, ticks: "outside", showline: true, nticks: narrow ? 5 : 10, ...(log ? ticks(xs, state.x, group, narrow)
          : { ticksuffix: state.x.endsWith("_ratio") ? "×" : "", tickformat: state.cost === "latency_ms" || state.cost === "p" ? "" : "~s" }) },
      yaxis: { ...axis, type: logY ? "log" : "linear", ticksuffix: percent ? " %" : "", nticks: 8 },
      annotations: [{ text: plain(group.titles[state.y]), xref: "paper", yref: "paper", x: 0, y: 1, yshift: 26, showarrow: false,
        xanchor: "left", font: { size: 13, color: style("--ink") } }],
      shapes: [],
    };
    const seen = window_(group, dots, state);
    if (!state.whole && !logY) made.yaxis.range = [state.scale * seen.low, state.scale * seen.high];
    level(made, group.limits[state.y], "budget", style("--bad"), "dash", state);
    if (group.baseline[state.y] !== group.limits[state.y]) level(made, group.baseline[state.y], "before", style("--soft"), "dot", state);
    return { made, outside: seen.outside };
  }
  function level(made, value, name, colour, dash, state) {
    if (value === undefined) return;
    const y = state.scale * value;
    made.shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: colour, width: 1.3, dash } });
    made.annotations.push({ text: name, xref: "paper", x: 1, y: made.yaxis.type === "log" ? Math.log10(y) : y, xanchor: "right",
      yanchor: "bottom", showarrow: false, font: { size: 11.5, color: colour } });
  }
  const config = { responsive: true, displaylogo: false, scrollZoom: false, doubleClick: "reset", showTips: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
  const shell = (bar) => ({ ...config, displayModeBar: bar && window.innerWidth >= 560 ? "hover" : false });

  function drawCurve(article, group, state) {
    const plot = article.querySelector(".curve");
    if (!plot) return;
    state.x = state.ratio && group.titles[`${state.cost}_ratio`] ? `${state.cost}_ratio` : state.cost;
    state.scale = group.percent && state.y !== "loss_val" ? 100 : 1;
    const dots = group.dots.filter((d) => has(d, state.x) && has(d, state.y));
    if (!dots.length) {
      Plotly.purge(plot);
      plot.textContent = "No record holds this pair of numbers.";
      return;
    }
    if (!plot.classList.contains("js-plotly-plot")) plot.textContent = "";
    const { made, outside } = layout(group, state, dots);
    Plotly.react(plot, traces(group, state, dots), made, shell(true));
    const told = article.querySelector(".outside");
    told.hidden = state.whole || !outside;
    told.textContent = `${outside} ${outside === 1 ? "point lies" : "points lie"} outside this window; “whole range” shows all.`;
  }
  function drawMoves(article, group) {
    const plot = article.querySelector(".moves");
    if (!plot) return;
    const sizes = group.moves.flatMap((m) => [Math.abs(m[0]), Math.abs(m[1])]).sort((a, b) => a - b);
    const reach = 1.15 * (sizes[Math.floor((sizes.length < 60 ? 1 : 0.96) * (sizes.length - 1))] || 1);
    const { made } = layout({ ...group, percent: false, titles: {}, limits: {}, baseline: {} }, { x: "p", y: "m", scale: 1, cost: "p", whole: true },
      group.moves.map((m) => ({ v: { p: m[0], m: m[1] } })));
    const least = Math.min(0, ...group.moves.map((m) => Math.min(m[0], m[1])));
    const range = [Math.max(1.15 * least, -reach) - 0.05 * reach, reach];
    const look = (kept) => {
      const own = group.moves.filter((m) => m[2] === kept);
      return { type: "scatter", mode: "markers", x: own.map((m) => m[0]), y: own.map((m) => m[1]), hoverinfo: "text",
        hovertext: own.map((m) => `step ${m[3]}, ${kept ? "kept" : "rejected"}<br>predicted ${short(m[0])}<br>measured ${short(m[1])}`),
        marker: kept ? { color: color(0), size: 8, symbol: "circle", line: { width: 1, color: style("--surface") } }
          : { color: color(4), size: 8, symbol: "x-thin-open", line: { width: 1.6 } }, name: kept ? "kept" : "rejected" };
    };
    Object.assign(made, { showlegend: true, legend: { orientation: "h", x: 1, xanchor: "right", y: 1.02, yanchor: "bottom" } });
    Object.assign(made.xaxis, { type: "linear", range, tickvals: undefined, ticktext: undefined, tickformat: "", nticks: 6, title: { text: "predicted", font: { size: 13 }, standoff: 10 } });
    Object.assign(made.yaxis, { range, type: "linear" });
    made.annotations[0].text = "measured";
    made.shapes = [{ type: "line", x0: range[0], x1: range[1], y0: range[0], y1: range[1], layer: "below",
      line: { color: style("--front"), width: 1.2, dash: "dot" } }];
    Plotly.react(plot, [look(true), look(false)].filter((t) => t.x.length), made, shell(false));
    const outside = group.moves.filter((m) => Math.max(m[0], m[1]) > range[1] || Math.min(m[0], m[1]) < range[0]).length;
    const told = article.querySelector(".prediction .outside");
    told.hidden = !outside;
    told.textContent = `${outside} of ${group.moves.length} moves lie outside this window.`;
  }

  function element(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }
  function choice(name, title, options, value, change) {
    if (options.length < 2) return null;
    const inputs = options.map(([key, label]) => {
      const input = element("input", { type: "radio", name, value: key, checked: key === value, onchange: () => change(key) });
      return element("label", {}, input, element("span", { textContent: label }));
    });
    const made = element("fieldset", { className: "choice" });
    made.append(element("legend", { textContent: title }), element("div", { className: "options" }, ...inputs));
    return made;
  }
  function controls(article, group, state, index) {
    const place = article.querySelector(".controls");
    if (!place) return;
    const draw = () => drawCurve(article, group, state);
    const set = (key) => (value) => { state[key] = value; draw(); };
    const known = (names, suffix = "") => Object.entries(names).filter(([key]) => group.titles[key + suffix] || group.titles[key]);
    const ratio = Object.keys(COSTS).some((key) => group.titles[`${key}_ratio`]);
    const whole = element("input", { type: "checkbox", onchange: (event) => { state.whole = event.target.checked; draw(); } });
    const made = [
      choice(`cost-${index}`, "Compression in", known(COSTS), state.cost, set("cost")),
      ratio ? choice(`ratio-${index}`, "as", [["ratio", "ratio"], ["", "amount"]], "ratio", (v) => { state.ratio = v === "ratio"; draw(); }) : null,
      choice(`score-${index}`, "against", known(SCORES), state.y, set("y")),
      element("div", { className: "choice check" }, element("label", {}, whole, "whole range")),
    ];
    place.append(...made.filter(Boolean));
    for (const button of article.querySelectorAll(".legend button")) {
      button.onclick = () => {
        const s = Number(button.dataset.series), on = state.hidden.delete(s);
        if (!on) state.hidden.add(s);
        button.setAttribute("aria-pressed", String(on));
        draw();
      };
    }
  }
  function prepare(article, index) {
    const group = groups[index];
    const first = (names) => Object.keys(names).find((key) => group.titles[key]);
    const state = { cost: first(COSTS), y: first(SCORES), ratio: true, whole: false, hidden: new Set() };
    for (const plot of article.querySelectorAll(".plot")) plot.after(element("p", { className: "note outside needs-js", hidden: true }));
    controls(article, group, state, index);
    for (const button of article.querySelectorAll(".copy")) {
      button.onclick = async () => {
        await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
        button.textContent = "Copied";
      };
    }
    return () => { drawCurve(article, group, state); drawMoves(article, group); };
  }

  const articles = [...document.querySelectorAll("article")];
  const draws = new Map();
  let shown = 0;
  function show(index) {
    shown = index;
    articles.forEach((article, i) => { article.hidden = i !== index; });
    if (!draws.has(index)) draws.set(index, prepare(articles[index], index));
    draws.get(index)();
  }
  const select = document.getElementById("group");
  if (select) select.onchange = () => show(Number(select.value));
  show(select ? Number(select.value) : 0);
  const again = () => draws.get(shown)();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  matchMedia("(max-width: 559px)").addEventListener("change", again);
})();
