"use strict";
// Everything that comes from the study is put in with textContent, or drawn as text into an SVG: none of it is ever parsed as markup.
// Each piece of it is laid out by its own direction, and what would turn others around is shown as an escape.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const charts = [];
  const INK = "#222", SOFT = "#555", FONT = "'Noto Sans', 'Segoe UI', 'Helvetica Neue', Arial, sans-serif";
  const harmless = text => String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb]/g, c => `\\u{${c.charCodeAt(0).toString(16)}}`);
  // A text inside another line: letters that run from right to left take nothing beside them along.
  const isolated = text => { const shown = harmless(text); return /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]|[\ud802\ud803\ud83a\ud83b]/.test(shown) ? `\u2068${shown}\u2069` : shown; };
  const cut = (text, most) => { const all = [...String(text)]; return all.length > most ? `${all.slice(0, most - 1).join("")}…` : text; };
  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) { made.textContent = harmless(text); made.dir = "auto"; }
    if (className) made.className = className;
    return made;
  };
  const minus = text => String(text).replace(/^-/, "−");
  const short = value => value === null || value === undefined ? "" : typeof value !== "number" ? String(value)
    : minus(Number.isInteger(value) ? value : Math.abs(value) >= 1000 ? value.toFixed(0) : Math.abs(value) < 0.001 ? value.toPrecision(2) : value.toFixed(3));

  // --- charts ---

  const SYMBOLS = ["circle", "rect", "triangle", "diamond"];
  const symbolOf = colour => SYMBOLS[Math.max(0, data.palette.indexOf(colour)) % 4];
  const axis = (of, index, room) => ({
    gridIndex: index, name: of.label, nameLocation: "middle", nameTruncate: { maxWidth: room }, nameTextStyle: { color: INK, fontSize: 12 },
    axisLabel: { color: SOFT, fontSize: 11, hideOverlap: true, formatter: value => typeof value === "number" ? minus(+value.toPrecision(3)) : /^-[0-9.]+$/.test(value) ? minus(value) : isolated(value) }, axisLine: { show: true, onZero: false, lineStyle: { color: SOFT } },
    splitLine: { show: !of.categories.length, lineStyle: { color: "#e8e8e8" } }, axisTick: { show: false },
    ...(of.categories.length ? { type: "category", data: of.categories } : { type: "value", scale: true, min: of.low ?? undefined, max: of.high ?? undefined }),
  });
  const band = (mark, index) => ({
    type: "custom", name: mark.name, xAxisIndex: index, yAxisIndex: index, silent: true, color: mark.colour, z: 1, clip: true,
    data: mark.x.map((x, i) => [x, mark.low[i], mark.high[i]]), encode: { x: 0, y: [1, 2] },
    renderItem: (params, api) => {
      if (params.dataIndexInside !== 0) return null;
      const upper = mark.x.map((x, i) => api.coord([x, mark.high[i]])), lower = mark.x.map((x, i) => api.coord([x, mark.low[i]]));
      return { type: "polygon", shape: { points: upper.concat(lower.reverse()) }, style: { fill: mark.colour, opacity: 0.22 } };
    },
  });
  const series = (mark, index, panel) => {
    const at = { name: mark.name, xAxisIndex: index, yAxisIndex: index };
    const points = mark.x.map((x, i) => [x, mark.y[i]]);
    switch (mark.shape) {
      case "band": return band(mark, index);
      case "line": return { ...at, type: "line", data: points, color: mark.colour, symbol: symbolOf(mark.colour), symbolSize: 7, lineStyle: { width: 2 }, z: 3, emphasis: { focus: "series" } };
      case "dashed": return { ...at, type: "line", data: points, color: mark.colour, showSymbol: false, lineStyle: { width: 1.5, type: [5, 4] }, z: 2 };
      case "cloud":
      case "points": return { ...at, type: "scatter", data: mark.x.map((x, i) => ({ value: [x, mark.y[i]], name: mark.labels[i] })), color: mark.colour, symbol: symbolOf(mark.colour), symbolSize: 8, z: 4,
        labelLayout: { hideOverlap: true }, label: { show: mark.shape === "points" && mark.labels.length > 0, position: "left", formatter: p => minus(p.name), color: INK, fontSize: 11 } };
      case "bars": {
        const half = mark.x.length > 1 ? (mark.x[1] - mark.x[0]) / 2 : 0.5;
        return { ...at, type: "custom", color: mark.colour, data: points, encode: { x: 0, y: 1 },
          renderItem: (params, api) => {
            const [x, y] = [api.value(0), api.value(1)], a = api.coord([x - half, y]), b = api.coord([x + half, 0]);
            return { type: "rect", shape: { x: a[0], y: a[1], width: b[0] - a[0], height: b[1] - a[1] }, style: { fill: mark.colour, opacity: 0.55 } };
          } };
      }
      default: return { ...at, type: "heatmap", data: mark.x.map((x, i) => [x, mark.y[i], mark.values[i] ?? "-"]), itemStyle: { borderColor: "#fff", borderWidth: 1 },
        label: { show: panel.x.categories.length <= 30, fontSize: 9, formatter: p => typeof p.value[2] === "number" ? minus(+p.value[2].toFixed(2)) : "" } };
    }
  };
  // Names of columns are turned where they would meet: a letter takes 6 pixels.
  const isTurned = (panel, width) => panel.x.categories.some(c => c.length * 6 > (width - 260) / panel.x.categories.length);
  const panelHeight = (panel, columns, each) => panel.colours ? 24 * panel.y.categories.length + 96 + (isTurned(panel, each) ? 90 : 0) : [0, 400, 330, 280, 215][Math.min(columns, 4)];
  const inTooltip = (figure, parameters) => {
    const list = (Array.isArray(parameters) ? parameters : [parameters]).filter(p => p.seriesType !== "custom" || !Array.isArray(parameters));
    if (!list.length) return "";
    const first = list[0], panel = figure.panels[figure.where[first.seriesIndex].panel];
    if (first.seriesType === "heatmap") return `${isolated(panel.y.categories[first.value[1]])}, ${isolated(panel.x.categories[first.value[0]])}\n${panel.colours.label}: ${short(first.value[2])}`;
    const lines = list.map(p => {
      const same = panel.marks.find(m => m.shape === "band" && m.name === p.seriesName), i = same ? same.x.indexOf(p.value[0]) : -1;
      const name = p.name && p.seriesType === "scatter" ? `${isolated(p.seriesName)}, ${isolated(minus(p.name))}` : isolated(p.seriesName);
      return `${name}: ${short(p.value[1])}${i >= 0 ? ` [${short(same.low[i])}, ${short(same.high[i])}]` : ""}`;
    });
    return `${panel.x.label}: ${short(list[0].value[0])}\n${[...new Set(lines)].join("\n")}`;
  };
  const options = (figure, width) => {
    const hasCells = figure.panels.some(p => p.colours);
    const columns = Math.max(1, Math.min(figure.columns, figure.panels.length, Math.floor(width / (figure.columns > 3 ? 190 : hasCells ? 420 : 260))));
    const names = [...new Set(figure.panels.flatMap(p => p.marks.filter(m => m.shape !== "cells").map(m => m.name)))];
    // A letter takes 8 pixels, one of a wide script 13.
    const wide = text => [...text].reduce((sum, c) => sum + (c < "\u1100" ? 8 : 13), 0), longest = Math.max(4, Math.floor((width - 60) / 13));
    const legendRows = names.length ? Math.ceil(names.reduce((sum, name) => sum + wide(cut(name, longest)) + 50, 0) / Math.max(1, width - 120)) : 0;
    let top = 26 * legendRows + 6;
    const option = { animation: false, backgroundColor: "#fff", textStyle: { fontFamily: FONT }, title: [], grid: [], xAxis: [], yAxis: [], series: [], visualMap: [],
      legend: { show: names.length > 0, data: names, top: 0, left: 0, itemGap: 16, formatter: name => isolated(cut(name, longest)), textStyle: { color: INK, fontSize: 13 }, type: "plain" },
      tooltip: { renderMode: "richText", trigger: figure.panels.some(p => p.marks.some(m => m.shape === "line")) && !figure.panels.some(p => p.marks.some(m => m.shape === "points" || m.shape === "cloud")) ? "axis" : "item",
        confine: true, backgroundColor: "#fffffff2", borderColor: "#bbb", textStyle: { color: INK, fontSize: 12 }, formatter: p => inTooltip(figure, p) } };
    figure.where = [];
    const each = width / columns;
    for (let start = 0; start < figure.panels.length; start += columns) {
      const row = figure.panels.slice(start, start + columns), height = Math.max(...row.map(p => panelHeight(p, columns, each)));
      row.forEach((panel, column) => {
        const index = start + column, names = panel.y.categories.map(c => wide(c) * 0.78), left = panel.y.categories.length ? Math.min(190, each * 0.35, Math.max(...names)) + 34 : 58;
        const turned = isTurned(panel, each), right = panel.colours ? 66 : 18, bottom = turned ? 138 : 46;
        if (panel.title) option.title.push({ text: isolated(panel.title), left: each * column + left, top, textStyle: { fontSize: 13, fontWeight: 600, color: INK, width: each - left - 8, overflow: "truncate" } });
        option.grid.push({ left: each * column + left, top: top + 28, width: each - left - right, height: height - 28 - bottom });
        // Of more columns than have room for a name, some are named.
        const cell = (each - left - right) / Math.max(1, panel.x.categories.length), few = Math.max(0, Math.ceil(12 / cell) - 1);
        const xAxis = axis(panel.x, index, each - left - right), yAxis = axis(panel.y, index, height - 28 - bottom);
        if (turned) Object.assign(xAxis, { nameGap: 118, axisLabel: { ...xAxis.axisLabel, hideOverlap: false, rotate: 90, interval: few, width: 104, overflow: "truncate" } });
        option.xAxis.push({ nameGap: 26, ...xAxis });
        option.yAxis.push(panel.y.categories.length ? { ...yAxis, inverse: true, nameGap: left - 20, axisLabel: { ...yAxis.axisLabel, hideOverlap: false, interval: 0, width: left - 40, overflow: "truncate" } } : { ...yAxis, nameGap: 40 });
        // The legend takes the look of the first of a name: the line, not its band.
        for (const mark of [...panel.marks].sort((a, b) => (a.shape === "band") - (b.shape === "band"))) {
          if (panel.colours) option.visualMap.push({ type: "continuous", show: new Set(panel.colours.colours).size > 1, seriesIndex: option.series.length, min: panel.colours.low, max: panel.colours.high, inRange: { color: panel.colours.colours }, calculable: false,
            orient: "vertical", left: each * (column + 1) - 56, top: top + 22, itemWidth: 12, itemHeight: Math.max(50, height - 60 - bottom), text: [short(panel.colours.high), short(panel.colours.low)], textStyle: { fontSize: 11, color: SOFT } });
          figure.where.push({ panel: index });
          option.series.push(series(mark, index, panel));
        }
      });
      top += height;
    }
    return [option, top];
  };
  let printing = false;
  const draw = (box, figure) => {
    const known = charts.find(c => c.box === box);
    // A4 less its margins: while a page is being laid out for print, boxes still have their width on the screen.
    const width = printing ? 680 : box.clientWidth || 900, [option, height] = options(figure, width);
    box.style.height = `${height}px`;
    if (known) { known.figure = figure; known.chart.resize({ width, height }); known.chart.setOption(option, true); return; }
    const chart = echarts.init(box, null, { renderer: "svg", width, height });
    chart.setOption(option);
    charts.push({ box, chart, figure });
  };
  const redraw = () => charts.forEach(({ box, figure }) => draw(box, figure));

  // --- tables ---

  const unpack = column => column.words ? column.values.map(i => i === null ? null : column.words[i]) : column.type === "flag" ? column.values.map(v => v === null ? null : v ? "true" : "false") : column.values;
  const PAGE = 15;
  const fillTable = (box, table) => {
    const columns = table.columns.map(c => ({ name: c.name, number: c.type === "number", values: unpack(c) }));
    let order = [...Array(table.rows).keys()], shown = PAGE, sorted = null, up = true, wanted = "";
    // Many columns are printed under turned headings.
    if (columns.length > 8) box.classList.add("wide");
    const controls = element("div", undefined, "controls of-table"), find = element("input"), count = element("span", "", "soft"), more = element("button", "Show more rows");
    find.type = "search"; find.placeholder = "filter rows"; find.setAttribute("aria-label", "filter rows");
    const scroll = element("div", undefined, "scroll"), made = element("table"), head = made.createTHead().insertRow(), body = made.createTBody();
    const matching = () => order.filter(row => !wanted || columns.some(c => String(c.values[row] ?? "").toLowerCase().includes(wanted)));
    const show = () => {
      const rows = matching();
      body.replaceChildren(...rows.slice(0, shown).map(row => {
        const line = element("tr");
        for (const c of columns) { const text = short(c.values[row]); line.append(element("td", text, c.number ? "number" : text.length > 60 ? "long" : "")); }
        return line;
      }));
      count.textContent = `${Math.min(shown, rows.length)} of ${rows.length} rows`;
      more.hidden = shown >= rows.length;
    };
    columns.forEach((c, index) => {
      const cell = element("th", undefined, c.number ? "number" : ""), button = element("button", c.name);
      cell.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        up = sorted === index ? !up : true; sorted = index;
        [...head.cells].forEach(other => other.setAttribute("aria-sort", "none"));
        cell.setAttribute("aria-sort", up ? "ascending" : "descending");
        order.sort((a, b) => {
          const [x, y] = [c.values[a], c.values[b]];
          if (x === null || y === null) return (x === null) - (y === null);
          return (c.number ? x - y : String(x).localeCompare(String(y))) * (up ? 1 : -1) || a - b;
        });
        show();
      });
      cell.append(button); head.append(cell);
    });
    find.addEventListener("input", () => { wanted = find.value.toLowerCase(); shown = PAGE; show(); });
    more.addEventListener("click", () => { shown += 100; show(); });
    if (table.rows > PAGE) { controls.append(find, count, more); box.append(controls); }
    scroll.append(made); box.append(scroll); show();
  };

  // --- prompt by prompt ---

  const drill = sets => {
    const by = id => document.getElementById(id), setBox = by("prompt-set"), picker = by("prompt-picker"), find = by("prompt-find");
    const choice = (text, value) => { const made = element("option", text); made.value = value; return made; };
    sets.forEach((set, i) => setBox.append(choice(set.name, i)));
    const current = () => sets[+setBox.value];
    const list = () => {
      const wanted = find.value.toLowerCase(), set = current();
      const options = set.prompts.map((p, i) => [p, i]).filter(([p]) => !wanted || `${p.id} ${p.split} ${p.category} ${p.text ?? ""}`.toLowerCase().includes(wanted))
        .map(([p, i]) => choice(`${isolated(p.id)}  ${isolated(cut(p.text ?? `${p.split}, ${p.category}`, 70))}`, i));
      picker.replaceChildren(...options); show();
    };
    const show = () => {
      const set = current(), index = picker.value === "" ? -1 : +picker.value, prompt = set.prompts[index];
      by("prompt-text").textContent = prompt ? harmless(prompt.text ?? "(the prompt file was not at hand when this page was made)") : "No prompt matches.";
      if (!prompt) return;
      const scores = set.scores.map(s => `score ${s.model ? isolated(s.model) + " " : ""}${short(s.values[index])}`).join(", ");
      by("prompt-meta").textContent = `${[prompt.id, prompt.split, prompt.category].map(isolated).join(" · ")}${scores ? " · " + scores : ""}`;
      chart(set, index); answers(set, index);
    };
    const chart = (set, index) => {
      const places = [...new Set(set.sweeps.map(s => s.place))], panels = [];
      // One legend for all panels: a direction keeps its colour where others are missing.
      const names = [...new Set(set.sweeps.filter(s => !s.random).map(s => s.name))];
      for (const place of places) {
        const marks = [], of = set.sweeps.filter(s => s.place === place), n = s => s.alphas.length;
        for (const s of of.filter(s => s.random)) {
          const from = index * n(s), cut = key => s[key].slice(from, from + n(s));
          if (cut("mean")[0] === null) continue;
          if (s.low.length) marks.push({ name: s.name, colour: data.baseline, shape: "band", x: s.alphas, y: cut("mean"), low: cut("low"), high: cut("high"), labels: [], values: [] });
          marks.push({ name: s.name, colour: data.baseline, shape: "dashed", x: s.alphas, y: cut("mean"), low: [], high: [], labels: [], values: [] });
        }
        for (const s of of.filter(s => !s.random)) {
          const values = s.mean.slice(index * n(s), (index + 1) * n(s)), kept = values.map((v, i) => i).filter(i => values[i] !== null);
          if (kept.length) marks.push({ name: s.name, colour: data.palette[names.indexOf(s.name) % data.palette.length], shape: "line", x: kept.map(i => s.alphas[i]), y: kept.map(i => values[i]), low: [], high: [], labels: [], values: [] });
        }
        if (marks.length) panels.push({ title: place, x: { label: "α (length added along the unit direction)", categories: [], low: null, high: null }, y: { label: of[0].axis, categories: [], low: null, high: null }, marks, colours: null });
      }
      const box = by("prompt-chart"); box.hidden = !panels.length;
      if (panels.length) draw(box, { panels, columns: Math.min(panels.length, 2) });
    };
    const answers = (set, index) => {
      const box = by("prompt-answers"), prompt = set.prompts[index], texts = set.texts.filter(t => t.prompt === index);
      box.replaceChildren();
      if (!texts.length) { box.append(element("p", set.without_texts ? `Texts of the first prompts are shown here; those of ${set.without_texts} more are in the tables of the run.` : set.texts.length ? "No text was generated for this prompt." : "", "soft")); return; }
      box.append(element("h3", "What the model wrote"));
      const made = element("table"), head = made.createTHead().insertRow(), body = made.createTBody();
      ["direction", "α", "text", "refused?"].forEach(name => { const cell = element("th", name); cell.style.padding = "6px 11px"; head.append(cell); });
      for (const t of texts) {
        const row = body.insertRow();
        row.append(element("td", t.place), element("td", short(t.alpha), "number"), element("td", t.text, "long"));
        const verdicts = element("td");
        for (const [name, refused] of Object.entries(t.verdicts)) { verdicts.append(element("span", `${isolated(name)}: ${refused ? "refused" : "answered"}`, `badge ${refused ? "refused" : "answered"}`), " "); }
        row.append(verdicts);
      }
      const scroll = element("div", undefined, "scroll"); scroll.append(made); box.append(scroll);
    };
    setBox.addEventListener("change", list); find.addEventListener("input", list); picker.addEventListener("change", show);
    setBox.parentElement.hidden = sets.length < 2;
    list();
  };

  document.querySelectorAll("[data-table]").forEach(box => fillTable(box, data.tables[+box.dataset.table]));
  document.querySelectorAll("[data-figure]").forEach(box => draw(box, data.figures[+box.dataset.figure]));
  if (data.sets.length) drill(data.sets);
  let waiting;
  window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 150); });
  window.addEventListener("beforeprint", () => { printing = true; redraw(); });
  window.addEventListener("afterprint", () => { printing = false; redraw(); });
  document.body.dataset.ready = "true";
})();
