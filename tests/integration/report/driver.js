"use strict";
(() => {
  const found = { error: null };
  const finish = () => {
    const out = document.createElement("pre");
    out.id = "driven";
    out.textContent = JSON.stringify(found);
    document.body.append(out);
  };
  try {
    found.ready = document.body.dataset.ready;
    found.question = document.querySelector(".question").textContent;
    const shapes = box => box.querySelectorAll("svg path, svg polyline, svg polygon, svg rect, svg circle").length;
    const boxes = [...document.querySelectorAll("[data-figure]")];
    found.charts_without_shapes = boxes.filter(box => shapes(box) < 4).length;
    const box = boxes.find(b => b.closest("section").id === "stage-steer" && b.closest("figure").querySelector("h3").textContent === "Mean score against α");
    const chart = echarts.getInstanceByDom(box);
    found.series = [...new Set(chart.getOption().series.map(s => s.name))];
    found.drawn = shapes(box);
    const line = chart.getOption().series.findIndex(s => s.type === "line" && s.name.startsWith("steer"));
    chart.dispatchAction({ type: "showTip", seriesIndex: line, dataIndex: 1 });
    chart.getZr().flush();
    found.tooltip = [...box.querySelectorAll("svg text")].map(t => t.textContent).join("\n");
    chart.dispatchAction({ type: "legendToggleSelect", name: "steer (top_bottom_10)" });
    found.hidden_by_legend = chart.getOption().legend[0].selected["steer (top_bottom_10)"] === false;

    const number = text => parseFloat(text.replace("−", "-"));
    const table = document.querySelector("#stage-patch .table table");
    const heads = [...table.tHead.rows[0].cells], column = heads.findIndex(c => c.textContent === "delta");
    const values = () => [...table.tBodies[0].rows].map(row => number(row.cells[column].textContent));
    heads[column].querySelector("button").click();
    found.ascending = values();
    heads[column].querySelector("button").click();
    found.descending = values();
    const scores = [...document.querySelectorAll("#stage-score h3")].find(h => h.textContent === "score").nextElementSibling.nextElementSibling;
    const filter = scores.querySelector("input");
    filter.value = "hostile";
    filter.dispatchEvent(new Event("input"));
    found.filtered = scores.querySelectorAll("tbody tr").length;

    const find = document.getElementById("prompt-find");
    find.value = "hostile";
    find.dispatchEvent(new Event("input"));
    const text = document.getElementById("prompt-text");
    found.prompt_text = text.textContent;
    found.prompt_children = text.children.length;
    found.answers = [...document.querySelectorAll("#prompt-answers tbody tr")].map(row => row.textContent);
    found.prompt_charts = echarts.getInstanceByDom(document.getElementById("prompt-chart")).getOption().grid.length;
    // The tooltip of a point whose prompt is called by a script element.
    const clouds = boxes.map(b => echarts.getInstanceByDom(b)).filter(c => c.getOption().series.some(s => s.type === "scatter"));
    found.hostile_tooltips = 0;
    for (const cloud of clouds) cloud.getOption().series.forEach((s, seriesIndex) => (s.data ?? []).forEach((point, dataIndex) => {
      if (!String(point.name ?? "").includes("<script>")) return;
      cloud.dispatchAction({ type: "showTip", seriesIndex, dataIndex });
      cloud.getZr().flush();
      found.hostile_tooltips += [...cloud.getDom().querySelectorAll("svg text")].some(t => t.textContent.includes("<script>"));
    }));
    found.pwned = window.pwned ?? null;
    found.images = document.images.length;
    found.scripts = document.scripts.length;
  } catch (error) {
    found.error = String(error && error.stack || error);
  }
  setTimeout(finish, 200);
})();
